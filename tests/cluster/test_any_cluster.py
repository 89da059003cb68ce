"""`inferstack up` and `down` on a cluster as somebody else set it up: what it lacks is said, nothing of theirs is touched."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import commands, slots
from harness.slots import Deployed
from machine import client, lifecycle
from machine.layout import Machine

ENVIRONMENT = "elsewhere"
HOST = "elsewhere.example"
pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """An API server without nodes, metrics, storage or Gateway controller, and without KEDA."""
    folder = Path(f"/tmp/inferstack-bare-{os.getpid()}")
    try:
        machine = lifecycle.up("api", folder, print)
        client.kubectl(machine, "delete", "customresourcedefinition", "scaledobjects.keda.sh")
        client.wait("its end", 30, lambda: client.get(machine, "/apis/keda.sh/v1alpha1/scaledobjects")[0] == 404)
        yield machine
    finally:
        lifecycle.down(folder)


def test_up_on_a_cluster_that_is_there_then_promote_then_down_leaves_nothing(environment: Deployed, tmp_path: Path) -> None:
    machine = environment.machine
    project = commands.project(tmp_path, ENVIRONMENT, _elsewhere())
    before = slots.everything(machine)
    up = _run(machine, project, "up", "--yes")
    assert up.returncode == 0, up.stdout + up.stderr
    key_file = project / ".inferstack" / ENVIRONMENT / "api-key"
    assert str(key_file) in up.stdout
    assert key_file.stat().st_mode & 0o077 == 0
    answer = _ask(machine, key_file.read_text().strip())
    assert answer.status_code == 200, answer.text
    assert _ask(machine, "sk-wrong").status_code == 401

    promoted = _run(machine, project, "promote", "--set", "slot.context=768", "--yes", "--json")
    assert promoted.returncode == 0, promoted.stderr
    again = _run(machine, project, "up", "--yes", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["left_alone"] == ["blue", "green"]
    status = json.loads(_run(machine, project, "status", "--json").stdout)
    assert status["active_slot"] == "green"
    assert status["weights"] == {"blue": 0, "green": 100}
    assert status["drift"] == []

    down = _run(machine, project, "down", "--yes")
    assert down.returncode == 0, down.stdout + down.stderr
    assert client.get(machine, f"/api/v1/namespaces/{ENVIRONMENT}")[0] == 404
    assert slots.everything(machine) == before
    assert "nothing was there" in _run(machine, project, "down", "--yes").stdout


def test_down_leaves_what_somebody_else_has_in_the_namespace(environment: Deployed, tmp_path: Path) -> None:
    machine = environment.machine
    project = commands.project(tmp_path, ENVIRONMENT, _elsewhere())
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": ENVIRONMENT}, "data": {"a": "b"}}
    try:
        assert _run(machine, project, "up", "--yes").returncode == 0
        client.apply(machine, [theirs])
        down = _run(machine, project, "down", "--yes")
        assert down.returncode == 0, down.stderr
        assert "configmaps theirs" in down.stdout
        assert client.read(machine, f"/api/v1/namespaces/{ENVIRONMENT}/configmaps/theirs")["data"] == {"a": "b"}
        assert client.read(machine, f"/apis/apps/v1/namespaces/{ENVIRONMENT}/deployments")["items"] == []
    finally:
        client.kubectl(machine, "delete", "namespace", ENVIRONMENT, "--ignore-not-found", "--timeout=120s")


def test_an_image_that_the_cluster_has_not_is_named_and_what_stands_is_taken_down_again(environment: Deployed, tmp_path: Path) -> None:
    machine = environment.machine
    changed = _elsewhere(engine={"image": "localhost/never-loaded:1"}, promotion={"ready_seconds": 20})
    project = commands.project(tmp_path, ENVIRONMENT, changed)
    client.kubectl(machine, "create", "namespace", ENVIRONMENT)
    try:
        up = _run(machine, project, "up", "--yes")
        assert up.returncode == 5, up.stdout + up.stderr
        assert "localhost/never-loaded:1" in up.stderr
        assert f"inferstack down {ENVIRONMENT}" in up.stderr
        assert _run(machine, project, "down", "--yes").returncode == 0
        assert client.read(machine, f"/api/v1/namespaces/{ENVIRONMENT}/services")["items"] == []
        assert client.get(machine, f"/api/v1/namespaces/{ENVIRONMENT}")[0] == 200, "somebody else made it"
    finally:
        client.kubectl(machine, "delete", "namespace", ENVIRONMENT, "--timeout=120s")


def test_what_pulumi_deployed_is_left_to_pulumi(environment: Deployed, tmp_path: Path) -> None:
    machine = environment.machine
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ENVIRONMENT}}
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "localhost/pause:1"}]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "inferstack-blue", "namespace": ENVIRONMENT},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": pod},
    }
    try:
        client.apply(machine, [namespace])
        client.kubectl(machine, "apply", "--server-side", "--field-manager=pulumi-kubernetes", "-f", "-", given=json.dumps(deployment))
        project = commands.project(tmp_path, ENVIRONMENT, _elsewhere())
        for words in (("up", "--yes"), ("down", "--yes")):
            done = _run(machine, project, *words)
            assert done.returncode == 5
            assert "pulumi" in done.stderr
        assert client.get(machine, f"/apis/apps/v1/namespaces/{ENVIRONMENT}/deployments/inferstack-blue")[0] == 200
    finally:
        client.kubectl(machine, "delete", "namespace", ENVIRONMENT, "--ignore-not-found", "--timeout=120s")


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        pytest.param({"gateway": {"class_name": "nginx"}}, ["no GatewayClass nginx", "there are: traefik"], id="another Gateway class"),
        pytest.param({}, ["GatewayClass traefik is not accepted"], id="a Gateway class without its controller"),
        pytest.param(
            {"gateway": {"class_name": None, "existing": "infra/shared"}}, ["no Gateway shared in infra"], id="a Gateway that is not there"
        ),
        pytest.param(
            {"scaling": {"renderer": "hpa", "policy": "cpu"}}, ["metrics.k8s.io/v1beta1", "install metrics-server"], id="no metrics-server"
        ),
        pytest.param(
            {"scaling": {"renderer": "hpa", "policy": "queue"}}, ["custom.metrics.k8s.io", "Prometheus adapter"], id="no Prometheus adapter"
        ),
        pytest.param({"scaling": {"renderer": "keda"}}, ["no ScaledObject of keda.sh/v1alpha1", "install KEDA"], id="no KEDA"),
        pytest.param({"monitoring": {"backend": "bundled"}}, ["no StorageClass is the default one"], id="no default StorageClass"),
        pytest.param(
            {"access": {"keys_secret": "keys"}, "gateway": {"tls_secret": "tls"}}, ["no Secret tls"], id="a Secret that nobody brought"
        ),
        pytest.param({"secrets": {"name": "vault"}}, ["no ExternalSecret of external-secrets.io"], id="no External Secrets operator"),
    ],
)
def test_each_capability_that_a_cluster_lacks_is_named_with_its_remedy_before_anything_is_made(
    bare: Machine, tmp_path: Path, changes: dict[str, Any], lacks: list[str]
) -> None:
    project = commands.project(tmp_path, ENVIRONMENT, _elsewhere(**changes))
    done = _run(bare, project, "up", "--yes")
    assert done.returncode == 5, done.stdout + done.stderr
    for words in lacks:
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert client.get(bare, f"/api/v1/namespaces/{ENVIRONMENT}")[0] == 404


def test_everything_that_is_lacking_is_said_at_once(bare: Machine, tmp_path: Path) -> None:
    project = commands.project(tmp_path, ENVIRONMENT, _elsewhere(gateway={"class_name": "nginx"}, scaling={"renderer": "keda"}))
    done = _run(bare, project, "up", "--yes", "--json")
    found = json.loads(done.stderr)["error"]["lacks"]
    assert len(found) >= 2
    assert all(set(one) == {"what", "remedy"} and all(one.values()) for one in found)


def test_nobody_is_asked_where_nobody_can_answer(bare: Machine, tmp_path: Path) -> None:
    project = commands.project(tmp_path, ENVIRONMENT, _elsewhere())
    for word in ("up", "down"):
        done = _run(bare, project, word)
        assert done.returncode == 5
        assert "--yes" in done.stderr


def _elsewhere(**changes: Any) -> dict[str, Any]:
    """The environment `cluster` in a namespace, under a host name and behind a Gateway of its own."""
    own = {"namespace": ENVIRONMENT, "gateway": {"class_name": "traefik", "hostname": HOST, "port": 8000}}
    return {**own, **changes}


def _run(machine: Machine, project: Path, *words: str) -> commands.Done:
    without_key = {"INFERSTACK_KEY": ""}
    return commands.run(machine, *words, f"--project={project}", environment=ENVIRONMENT, more=without_key)


def _ask(machine: Machine, key: str) -> httpx.Response:
    """Through the Gateway's own listener, from inside of the machine's network."""
    ask = (
        "import httpx,sys; a=httpx.post('http://10.88.0.1:8000/v1/chat/completions',headers={'host':sys.argv[1],"
        "'authorization':'Bearer '+sys.argv[2]},json={'model':'smollm2-135m-instruct','max_tokens':2,'messages':"
        "[{'role':'user','content':'hello'}]},timeout=60); print(a.status_code); print(a.text)"
    )
    done = subprocess.run([*lifecycle.enter(machine), sys.executable, "-c", ask, HOST, key], capture_output=True, text=True, check=True)
    code, _, text = done.stdout.partition("\n")
    return httpx.Response(int(code), text=text)
