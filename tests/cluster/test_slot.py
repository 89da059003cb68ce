"""A slot of real pods: ready, reached through the Gateway, unprivileged, scaled, disrupted within its budget."""

import re
import time

import httpx
import pytest
from harness import keys, manifests
from harness.load import Load
from harness.slots import NAMESPACE, SLOTS, Deployed
from machine import client

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_slot_answers_through_the_gateway_with_its_identity(fresh: Deployed) -> None:
    answer = fresh.ask()
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.headers["x-inferstack-slot"] == "blue"
    assert answer.headers["x-inferstack-generation"] == "1"
    assert re.fullmatch(r"(sha256:)?[0-9a-f]{64}", answer.headers["x-inferstack-model-digest"])


def test_the_gateway_refuses_who_has_no_key(environment: Deployed) -> None:
    body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "hello"}]}
    assert httpx.post(f"{environment.url}/v1/chat/completions", json=body).status_code == 401
    wrong = {"authorization": f"Bearer {keys.KEY}x"}
    assert httpx.post(f"{environment.url}/v1/chat/completions", json=body, headers=wrong).status_code == 401


def test_the_metrics_port_is_not_reached_through_the_gateway(environment: Deployed) -> None:
    assert httpx.get(f"{environment.url}/metrics").status_code == 404


def test_each_service_lists_its_own_ready_pods_and_no_others(environment: Deployed) -> None:
    for slot in SLOTS:
        addresses = {pod["status"]["podIP"] for pod in environment.pods(slot)}
        assert addresses
        assert environment.ready_addresses(slot) == addresses


def test_the_process_has_no_privileges_and_cannot_write_its_root(environment: Deployed) -> None:
    pod = environment.pods("blue")[0]["metadata"]["name"]
    look = "print(open('/proc/self/status').read()); open('/opt/written', 'w')"
    seen = environment.kubectl("exec", pod, "--", "python3", "-c", look, check=False)
    assert "Read-only file system" in seen
    fields = dict(re.findall(r"^(\w+):\s+(.*?)$", seen, re.MULTILINE))
    assert fields["Uid"].split() == [fields["Uid"].split()[0]] * 4 != ["0"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_it_has_no_token_of_the_api_server(environment: Deployed) -> None:
    pod = environment.pods("blue")[0]["metadata"]["name"]
    look = "import pathlib; print(pathlib.Path('/var/run/secrets/kubernetes.io').exists())"
    assert environment.kubectl("exec", pod, "--", "python3", "-c", look).strip() == "False"


def test_requests_go_where_the_weights_say(fresh: Deployed) -> None:
    with Load(fresh.url) as load:
        load.wait_for(10)
        assert set(load.by_slot) == {"blue"}
        fresh.set_weights(50, 50)
        time.sleep(1)
        before = load.by_slot
        load.wait_for(40, 120)
        both = load.by_slot - before
        assert both["green"] >= 8
        assert both["blue"] >= 8
        fresh.set_weights(0, 100)
        time.sleep(1)
        sent = time.time()
        load.wait_for(10)
    assert {one.slot for one in load.answers if one.sent > sent} == {"green"}
    assert load.lost == []


def test_a_rolling_change_of_the_live_slot_loses_no_request(fresh: Deployed) -> None:
    """Not how a promotion works, but what a node pool upgrade does to it."""
    old = {pod["metadata"]["name"] for pod in fresh.pods("blue")}
    with Load(fresh.url) as load:
        load.wait_for(5)
        fresh.kubectl("rollout", "restart", "deployment/inferstack-blue")
        fresh.wait_ready("blue")
        client.wait("end of the old pod", 90, lambda: not old & {pod["metadata"]["name"] for pod in fresh.all_pods("blue")})
        load.wait_for(5)
    assert load.lost == []
    assert not old & {pod["metadata"]["name"] for pod in fresh.pods("blue")}


def test_replicas_follow_load(fresh: Deployed) -> None:
    scaler = manifests.named(fresh.manifests, "HorizontalPodAutoscaler", "inferstack-blue")
    fresh.kubectl("delete", "horizontalpodautoscaler", "inferstack-blue")
    fresh.kubectl("scale", "deployment/inferstack-blue", "--replicas=1")
    fresh.wait_ready("blue", 1)
    with Load(fresh.url, clients=4, tokens=48) as load:
        client.apply(fresh.machine, [scaler])
        client.wait("more replicas", 180, lambda: fresh.deployment("blue")["spec"]["replicas"] > 1)
    assert load.lost == []
    seen = client.read(fresh.machine, f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/inferstack-blue")["status"]
    assert {one["resource"]["name"] for one in seen["currentMetrics"]} == {"cpu", "memory"}
    assert fresh.deployment("green")["spec"]["replicas"] == 1


def test_an_eviction_that_the_budget_does_not_allow_is_refused(fresh: Deployed) -> None:
    fresh.fix_replicas("blue", 2)
    budget = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/inferstack-blue"
    client.wait("budget of one", 60, lambda: client.read(fresh.machine, budget)["status"]["disruptionsAllowed"] == 1)
    first, second = (pod["metadata"]["name"] for pod in fresh.pods("blue"))
    with Load(fresh.url) as load:
        load.wait_for(5)
        assert "created" in _evict(fresh, first)
        assert "disruption budget" in _evict(fresh, second)
        fresh.wait_ready("blue", 2)
        load.wait_for(5)
    assert load.lost == []
    assert second in {pod["metadata"]["name"] for pod in fresh.pods("blue")}


def test_every_pod_is_under_a_policy_that_lets_in_its_port_only(environment: Deployed) -> None:
    """On the live objects, port by port; test_network.py shows with real connections that they are kept."""
    policies = client.read(environment.machine, f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies")["items"]
    for slot in SLOTS:
        labels = environment.pods(slot)[0]["metadata"]["labels"]
        chosen = [one for one in policies if _selects(one["spec"]["podSelector"], labels)]
        assert {kind for one in chosen for kind in one["spec"]["policyTypes"]} == {"Ingress", "Egress"}
        open_ports = {
            port["port"] for one in chosen for rule in one["spec"].get("ingress", []) for port in rule.get("ports", [{"port": "all"}])
        }
        assert open_ports == {8000, 9090}
        to_all = [rule for one in chosen for rule in one["spec"].get("egress", []) if not rule.get("ports")]
        assert to_all == []
    other = {"app.kubernetes.io/name": "something-else"}
    denied = [one for one in policies if _selects(one["spec"]["podSelector"], other)]
    assert denied
    assert not any(one["spec"].get("ingress") or one["spec"].get("egress") for one in denied)


def _selects(selector: dict[str, dict[str, str]], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "this test reads matchLabels only"
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())


def _evict(deployed: Deployed, pod: str) -> str:
    eviction = f'{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}","namespace":"{NAMESPACE}"}}}}'
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    done = client.kubectl(deployed.machine, "create", "--raw", path, "-f", "-", given=eviction, check=False)
    return (done.stdout + done.stderr).replace('"status":"Success"', "created").lower()
