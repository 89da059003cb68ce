"""This kit's autoscaler against a real API server: its own rights are enough, and go no further."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import client
from machine.layout import Machine, project_root

from inferstack.environment import SlotName, load_environment
from inferstack.serving.manifests.autoscaler import autoscaler_objects
from inferstack.serving.manifests.slot import slot_objects
from inferstack_runtime.autoscaler.actuate import CannotScale
from inferstack_runtime.autoscaler.config import AutoscalerConfig
from inferstack_runtime.autoscaler.process import Autoscaler

pytestmark = pytest.mark.cluster
RIGHTS = ("service_account", "role", "role_binding")


@pytest.fixture
def page() -> Iterator[str]:
    """A replica's metrics: idle, and busy in CPU seconds that grow."""

    class Page(http.server.BaseHTTPRequestHandler):
        seconds = 0.0

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            Page.seconds += 0.001
            text = f"# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {Page.seconds}\n".encode()
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    server.shutdown()
    server.server_close()


@pytest.fixture
def autoscaler(cluster: Machine, namespace: str, page: str, tmp_path: Path) -> Autoscaler:
    """The process's own object with its own account, told what its Deployment would be told; the slots have no pods here."""
    found = load_environment(project_root() / "stacks", "kubernetes")
    scaling = found.scaling.model_copy(update={"renderer": "autoscaler"})
    environment = found.model_copy(update={"scaling": scaling, "namespace": namespace})
    objects = autoscaler_objects(environment)
    slots = [group for slot in SlotName for group in slot_objects(environment, slot, name="test")]
    client.apply(cluster, [objects[role] for role in RIGHTS])
    client.apply(cluster, [{**group.workload, "spec": {**group.workload["spec"], "paused": True}} for group in slots])
    client.apply(cluster, [group.scaler for group in slots if group.scaler])
    token = client.kubectl(cluster, "create", "token", "inferstack-autoscaler", f"--namespace={namespace}").stdout
    (tmp_path / "token").write_text(token)
    config = json.loads(objects["config"]["data"]["autoscaler.json"])
    for target in config["targets"].values():
        target["metrics"] = [page]
        target["scale"] |= {
            "api": f"https://127.0.0.1:{cluster.ports.api}",
            "token_file": str(tmp_path / "token"),
            "ca_file": str(cluster.pki / "ca.crt"),
        }
    return Autoscaler(AutoscalerConfig.model_validate(config))


def _deployment(cluster: Machine, namespace: str, slot: str) -> dict[str, Any]:
    return client.read(cluster, f"/apis/apps/v1/namespaces/{namespace}/deployments/inferstack-{slot}")


def test_its_rights_are_enough_and_a_raised_floor_holds(cluster: Machine, namespace: str, autoscaler: Autoscaler) -> None:
    asyncio.run(autoscaler.look())
    assert set(autoscaler.slots) == {"blue", "green"}
    least = autoscaler.slots["blue"].bounds.fewest
    assert _deployment(cluster, namespace, "blue")["spec"]["replicas"] == least
    change = json.dumps({"data": {"min_instances": str(least + 1)}})
    name = f"configmap/inferstack-blue-scaling --namespace={namespace}".split()
    client.kubectl(cluster, "patch", *name, "--type=merge", f"--patch={change}")
    asyncio.run(autoscaler.look())
    assert _deployment(cluster, namespace, "blue")["spec"]["replicas"] == least + 1
    client.kubectl(cluster, "scale", "deployment/inferstack-green", f"--namespace={namespace}", "--replicas=0")
    asyncio.run(autoscaler.look())
    assert _deployment(cluster, namespace, "green")["spec"]["replicas"] == 0


def test_a_number_that_changed_since_it_was_read_is_refused_by_the_server(cluster: Machine, namespace: str, autoscaler: Autoscaler) -> None:
    scale = autoscaler._scales["blue"]
    asyncio.run(scale.read())
    client.kubectl(cluster, "scale", "deployment/inferstack-blue", f"--namespace={namespace}", "--replicas=4")
    with pytest.raises(CannotScale, match="409"):
        asyncio.run(scale.write(1))
    assert _deployment(cluster, namespace, "blue")["spec"]["replicas"] == 4


@pytest.mark.parametrize(
    ("verb", "what"),
    [
        ("patch", "deployments/inferstack-blue"),
        ("delete", "deployments/inferstack-blue"),
        ("list", "deployments"),
        ("get", "secrets/inferstack-keys"),
        ("patch", "configmaps/inferstack-journal"),
        ("create", "pods"),
        ("patch", "deployments/somebody-elses --subresource=scale"),
    ],
)
def test_its_rights_go_no_further(cluster: Machine, namespace: str, autoscaler: Autoscaler, verb: str, what: str) -> None:
    account = f"--as=system:serviceaccount:{namespace}:inferstack-autoscaler"
    asked = client.kubectl(cluster, "auth", "can-i", verb, *what.split(), account, f"--namespace={namespace}", check=False)
    assert asked.stdout.strip() == "no"
