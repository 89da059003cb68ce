"""Replicas follow a metric of the engine itself: pods, a real Prometheus with this kit's scraping, the Prometheus adapter, the real HPA."""

import json
import re
import shutil
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import commands, manifests
from harness.load import Load
from harness.slots import ENVIRONMENT, NAMESPACE, Deployed
from machine import build, client, lifecycle, objects
from machine.layout import NODE_ADDRESS, cache_folder, project_root

from inferstack.cluster.monitoring_config import prometheus_config
from inferstack.environment import load_environment

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
PROMETHEUS, ADAPTER = 9090, 6443
"""Ports inside of the machine's network."""
RULES = {
    "rules": [
        {
            "seriesQuery": '{__name__=~"inferstack_.+",namespace!="",pod!=""}',
            "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
            "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
        }
    ]
}


@pytest.fixture(scope="module")
def prometheus(environment: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prometheus on the node, told what this kit's own is told, but asking every 2 s. Skips where it is not installed.

    Debian builds it without discovery by the API server, so the pods come from a file, with the labels that discovery would give them.
    """
    if not (program := shutil.which("prometheus")):
        pytest.skip("no `prometheus` on PATH (apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    settings = prometheus_config(load_environment(project_root() / "stacks", ENVIRONMENT), ENVIRONMENT, "metrics")
    settings["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    del settings["rule_files"], settings["alerting"]
    job = settings["scrape_configs"][0]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": [NAMESPACE]}}]
    job["file_sd_configs"] = [{"files": [f"{folder}/pods.json"], "refresh_interval": "1s"}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    arguments = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={NODE_ADDRESS}:{PROMETHEUS}",
    ]
    with _discovered(environment, folder / "pods.json"), _running(environment, folder, "prometheus", [program, *arguments]):
        yield f"http://{NODE_ADDRESS}:{PROMETHEUS}"


@pytest.fixture(scope="module")
def adapter(environment: Deployed, prometheus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Prometheus adapter as the API custom.metrics.k8s.io. Skips where it cannot be built."""
    try:
        program = build.adapter(cache_folder(), lambda text: print(f"cluster: {text}"))
    except build.CannotBuild as error:
        pytest.skip(f"no Prometheus adapter: {error}")
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    pki = environment.machine.pki
    who = [f"--{use}={pki}/admin.kubeconfig" for use in ("lister-kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")]
    arguments = [
        *who,
        f"--config={folder}/rules.yaml",
        f"--prometheus-url={prometheus}",
        "--metrics-relist-interval=5s",
        f"--secure-port={ADAPTER}",
    ]
    arguments += [f"--tls-cert-file={pki}/metrics-server.crt", f"--tls-private-key-file={pki}/metrics-server.key"]
    group, version = "custom.metrics.k8s.io", "v1beta2"
    with _running(environment, folder, "adapter", [str(program), *arguments]):
        client.apply(environment.machine, objects.aggregated("prometheus-adapter", group, version, ADAPTER))
        try:
            client.wait(group, 60, lambda: client.get(environment.machine, f"/apis/{group}/{version}")[0] == 200)
            yield
        finally:
            client.kubectl(environment.machine, "delete", "apiservice", f"{version}.{group}")
            client.kubectl(environment.machine, "delete", "service", "prometheus-adapter", "--namespace=kube-system")
            client.kubectl(environment.machine, "delete", "endpointslice", "prometheus-adapter-node", "--namespace=kube-system")


def test_replicas_follow_the_queue_by_the_prometheus_adapter(fresh: Deployed, adapter: None, tmp_path: Path) -> None:
    scaler = _scaler(tmp_path, "HorizontalPodAutoscaler", {"renderer": "hpa", "policy": "queue", "queue_target": 2, "up_window_seconds": 0})
    assert {metric["type"] for metric in scaler["spec"]["metrics"]} == {"Pods"}
    fresh.kubectl("delete", "horizontalpodautoscaler", "inferstack-blue")
    fresh.kubectl("scale", "deployment/inferstack-blue", "--replicas=1")
    fresh.wait_ready("blue", 1)
    with Load(fresh.url, clients=24, tokens=48) as load:  # 8 run at once, the others wait
        client.apply(fresh.machine, [scaler])
        client.wait("more replicas", 240, lambda: fresh.deployment("blue")["spec"]["replicas"] > 1)
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/inferstack-blue"
    seen = client.read(fresh.machine, path)["status"]["currentMetrics"]
    assert "inferstack_waiting_sequences" in {one["pods"]["metric"]["name"] for one in seen if one["type"] == "Pods"}
    assert load.lost == []
    assert fresh.deployment("green")["spec"]["replicas"] == 1


def test_what_keda_would_ask_has_an_answer(fresh: Deployed, prometheus: str, tmp_path: Path) -> None:
    """KEDA itself is not run here: its queries are asked of the Prometheus that this kit's scraping fills."""
    scaler = _scaler(tmp_path, "ScaledObject", {"renderer": "keda", "policy": "queue"}, {"backend": "none", "prometheus_url": prometheus})
    queries = [one["metadata"]["query"] for one in scaler["spec"]["triggers"] if one["type"] == "prometheus"]
    assert len(queries) == 2
    for query in queries:
        client.wait(query, 60, lambda query=query: len(_ask(fresh, prometheus, query)) == 1)


def _scaler(folder: Path, kind: str, scaling: dict[str, Any], monitoring: dict[str, Any] | None = None) -> manifests.Manifest:
    changes: dict[str, Any] = {"scaling": scaling} | ({"monitoring": monitoring} if monitoring else {})
    project = commands.project(folder, "scaled", changes)
    return manifests.named(manifests.rendered(project, "scaled"), kind, "inferstack-blue")


def _ask(deployed: Deployed, prometheus: str, query: str) -> list[Any]:
    address = f"{prometheus}/api/v1/query?query={urllib.parse.quote(query)}"
    ask = ["curl", "--silent", "--fail", "--max-time", "5", address]
    done = subprocess.run([*lifecycle.enter(deployed.machine), *ask], capture_output=True, text=True, check=False)
    found: list[Any] = json.loads(done.stdout)["data"]["result"] if done.returncode == 0 else []
    return found


@contextmanager
def _discovered(deployed: Deployed, file: Path) -> Iterator[None]:
    """Keep ``file`` what discovery of pods would find: every container port, with its labels."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(1):
            with suppress(OSError, LookupError):
                pods = client.read(deployed.machine, f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
                unfinished = file.with_suffix(".part")
                unfinished.write_text(json.dumps([target for pod in pods for target in _targets(pod)]))
                unfinished.rename(file)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    yield
    stop.set()
    looking.join()


def _targets(pod: Any) -> Iterator[dict[str, Any]]:
    if not (address := pod["status"].get("podIP")):
        return
    labels = {"__meta_kubernetes_namespace": pod["metadata"]["namespace"], "__meta_kubernetes_pod_name": pod["metadata"]["name"]}
    for key, value in pod["metadata"].get("labels", {}).items():
        labels["__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", key)] = value
    for port in (port for container in pod["spec"]["containers"] for port in container.get("ports", ())):
        named = {"__meta_kubernetes_pod_container_port_name": port.get("name", "")}
        yield {"targets": [f"{address}:{port['containerPort']}"], "labels": labels | named}


@contextmanager
def _running(deployed: Deployed, folder: Path, name: str, command: list[str]) -> Iterator[None]:
    """A program on the node for as long as the block lasts; what it wrote is shown when it ended before."""
    log = folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen([*lifecycle.enter(deployed.machine), *command], stdout=output, stderr=output)
    try:
        yield
    finally:
        if process.poll() is not None:
            print(f"{name} had ended with {process.returncode}: {log.read_text()[-2000:]}")
        process.kill()
        process.wait()
