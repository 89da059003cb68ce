"""NetworkPolicies with real pods: what the policies of an environment let through, and what they do not."""

from collections.abc import Iterator

import pytest
from harness.slots import NAMESPACE, Deployed
from machine import client, runtime_image
from machine.layout import SERVICE_ADDRESS
from machine.policies import World, selects, table

PORT = 8001
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); print('reached')"


@pytest.fixture
def neighbours(environment: Deployed, namespace: str) -> Iterator[tuple[str, str]]:
    """Two pods that listen on PORT: `stranger` beside the slots without their labels, `outsider` in a namespace without policies."""
    places = {"stranger": NAMESPACE, "outsider": namespace}
    client.apply(environment.machine, [_pod(name, place) for name, place in places.items()])
    for name, place in places.items():
        client.wait(name, 90, lambda name=name, place=place: _ready(environment, name, place))
    yield namespace, _address(environment, "stranger", NAMESPACE)
    environment.kubectl("delete", "pod", "stranger", "--grace-period=1")


@pytest.mark.cluster
@pytest.mark.slow
def test_slots_take_requests_and_reach_names_and_nothing_else(environment: Deployed, neighbours: tuple[str, str]) -> None:
    namespace, stranger = neighbours
    outsider = _address(environment, "outsider", namespace)
    blue_pod = environment.pods("blue")[0]
    blue, name = blue_pod["status"]["podIP"], blue_pod["metadata"]["name"]

    assert _reaches(environment, "outsider", namespace, blue, 8000)
    assert _reaches(environment, "outsider", namespace, blue, 9090)
    assert _reaches(environment, "outsider", namespace, SERVICE_ADDRESS, 443)
    assert not _reaches(environment, name, NAMESPACE, SERVICE_ADDRESS, 443), "the API server listens elsewhere than on 443"
    assert not _reaches(environment, name, NAMESPACE, outsider, PORT)
    resolve = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
    assert environment.kubectl("exec", name, "--", "python3", "-c", resolve).strip() == SERVICE_ADDRESS

    assert not _reaches(environment, "outsider", namespace, stranger, PORT), "what has no policy of its own is denied"
    assert not _reaches(environment, "stranger", NAMESPACE, outsider, PORT)
    assert environment.ask().status_code == 200


@pytest.mark.cluster
@pytest.mark.slow
def test_without_the_policies_the_same_connections_pass(environment: Deployed, neighbours: tuple[str, str]) -> None:
    namespace, stranger = neighbours
    environment.kubectl("delete", "networkpolicies", "--all")
    try:
        client.wait("a way in", 20, lambda: _reaches(environment, "outsider", namespace, stranger, PORT))
        name = environment.pods("blue")[0]["metadata"]["name"]
        assert _reaches(environment, name, NAMESPACE, _address(environment, "outsider", namespace), PORT)
    finally:
        client.apply(environment.machine, [one for one in environment.manifests if one["kind"] == "NetworkPolicy"])
    client.wait("no way in", 20, lambda: not _reaches(environment, "outsider", namespace, stranger, PORT))


def _pod(name: str, namespace: str) -> dict[str, object]:
    container = {
        "name": "c",
        "image": runtime_image.REFERENCE,
        "command": ["python3", "-m", "http.server", str(PORT), "--directory=/proc/self"],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    spec = {
        "containers": [container],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def _ready(deployed: Deployed, name: str, namespace: str) -> bool:
    pod = client.read(deployed.machine, f"/api/v1/namespaces/{namespace}/pods/{name}")
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def _address(deployed: Deployed, name: str, namespace: str) -> str:
    return str(client.read(deployed.machine, f"/api/v1/namespaces/{namespace}/pods/{name}")["status"]["podIP"])


def _reaches(deployed: Deployed, name: str, namespace: str, address: str, port: int) -> bool:
    words = ["exec", name, f"--namespace={namespace}", "--", "python3", "-c", CONNECT, address, str(port)]
    done = client.kubectl(deployed.machine, *words, check=False)
    if done.returncode and not any(one in done.stderr for one in ("ConnectionRefusedError", "TimeoutError", "OSError")):
        raise RuntimeError(done.stderr)
    return "reached" in done.stdout


# ---- the rules, without a machine


def _of(name: str, namespace: str, address: str, ports: tuple[tuple[str, int], ...] = (), **labels: str) -> dict[str, object]:
    containers = [{"ports": [{"name": n, "containerPort": p} for n, p in ports]}]
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"metadata": metadata, "spec": {"containers": containers}, "status": {"podIP": address, "phase": "Running"}}


PODS = [
    _of("web", "a", "10.0.0.1", (("http", 8000),), app="web"),
    _of("db", "a", "10.0.0.2", (("sql", 5432),), app="db"),
    _of("other", "b", "10.0.0.3", app="web"),
]
NAMESPACES = [{"metadata": {"name": "a", "labels": {"team": "a"}}}, {"metadata": {"name": "b", "labels": {"team": "b"}}}]


def _lines(spec: dict[str, object], chain: str) -> list[str]:
    policy = {"metadata": {"name": "p", "namespace": "a"}, "spec": spec}
    text = table(World([policy], PODS, NAMESPACES))
    return [line.removeprefix(f"-A {chain} ") for line in text.splitlines() if line.startswith(f"-A {chain} ")]


@pytest.mark.parametrize(
    ("spec", "chain", "lines"),
    [
        pytest.param({"podSelector": {}}, "NP-I-10.0.0.1", ["-j REJECT"], id="nothing is let in by default"),
        pytest.param({"podSelector": {}}, "NP-E-10.0.0.1", [], id="and out goes everything where no policy speaks of it"),
        pytest.param({"podSelector": {}, "policyTypes": ["Egress"]}, "NP-E-10.0.0.2", ["-j REJECT"], id="nothing out"),
        pytest.param({"podSelector": {}}, "NP-I-10.0.0.3", [], id="another namespace is not meant"),
        pytest.param({"podSelector": {"matchLabels": {"app": "db"}}}, "NP-I-10.0.0.1", [], id="nor are other labels"),
        pytest.param({"podSelector": {}, "ingress": [{}]}, "NP-I-10.0.0.1", ["-p all -j RETURN", "-j REJECT"], id="everything in"),
        pytest.param(
            {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": "http"}]}]},
            "NP-I-10.0.0.1",
            ["-p tcp --dport 8000 -j RETURN", "-j REJECT"],
            id="a port by its name",
        ),
        pytest.param(
            {
                "podSelector": {},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 1, "endPort": 9}]}],
            },
            "NP-I-10.0.0.2",
            ["-s 10.0.0.1 -p tcp --dport 1:9 -j RETURN", "-j REJECT"],
            id="pods of the same namespace, a range of ports",
        ),
        pytest.param(
            {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]},
            "NP-I-10.0.0.2",
            ["-s 10.0.0.3 -j RETURN", "-j REJECT"],
            id="pods of another namespace",
        ),
        pytest.param(
            {
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/30", "except": ["10.1.0.1/32"]}}]}],
            },
            "NP-E-10.0.0.1",
            ["-d 10.1.0.0/32 -j RETURN", "-d 10.1.0.2/31 -j RETURN", "-j REJECT"],
            id="a block without a part of it",
        ),
        pytest.param(
            {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "UDP", "port": 53}]}]},
            "NP-E-10.0.0.1",
            ["-p udp --dport 53 -j RETURN", "-j REJECT"],
            id="names alone",
        ),
    ],
)
def test_a_policy_becomes_these_rules(spec: dict[str, object], chain: str, lines: list[str]) -> None:
    assert _lines(spec, chain) == lines


def test_what_was_let_through_once_is_not_asked_about_again() -> None:
    assert _lines({"podSelector": {}}, "POLICIES")[0] == "-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"


@pytest.mark.parametrize(
    ("operator", "values", "taken"),
    [("In", ["x", "y"], True), ("NotIn", ["x"], False), ("Exists", [], True), ("DoesNotExist", [], False), ("In", ["z"], False)],
)
def test_expressions_of_selectors(operator: str, values: list[str], taken: bool) -> None:
    assert selects({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]}, {"a": "x"}) is taken
