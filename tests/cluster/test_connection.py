"""Which cluster a command talks to: the one that its environment names, or none."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import commands
from harness.slots import ENVIRONMENT, Deployed
from machine import client, enclosure
from machine.layout import CONTEXT, SERVICE_ADDRESS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_of_several_contexts_the_named_one_is_used_whichever_is_current(environment: Deployed, tmp_path: Path) -> None:
    with _listener() as (port, connections):
        config = _kubeconfig(environment)
        config["clusters"].append({"name": "other", "cluster": {"server": f"https://127.0.0.1:{port}"}})
        config["contexts"].append({"name": "other", "context": {"cluster": "other", "user": config["users"][0]["name"]}})
        config["current-context"] = "other"
        done = _status(environment, tmp_path, config)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["slots"]["blue"]["ready"]
    assert connections == []


@pytest.mark.parametrize(
    "words", [("status",), ("promote", "--set", "slot.context=700", "--yes"), ("rollback",), ("up", "--yes"), ("down", "--yes")]
)
def test_without_the_named_context_nothing_is_asked_or_changed(environment: Deployed, tmp_path: Path, words: tuple[str, ...]) -> None:
    before = _versions(environment)
    with _listener() as (port, connections):
        config = _kubeconfig(environment)
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        config["contexts"][0]["name"] = config["current-context"] = "somebody-elses"
        done = _status(environment, tmp_path, config, *words)
    assert done.returncode == 5, done.stdout + done.stderr
    assert CONTEXT in done.stderr
    assert connections == []
    assert _versions(environment) == before


def test_a_token_that_has_run_out_is_told_as_that(environment: Deployed, tmp_path: Path) -> None:
    config = _kubeconfig(environment)
    config["users"][0]["user"] = {"token": "not.a.token-any-more"}
    done = _status(environment, tmp_path, config)
    assert done.returncode == 5
    assert "401" in done.stderr
    assert "credentials" in done.stderr


def test_a_server_that_is_not_there_is_named(environment: Deployed, tmp_path: Path) -> None:
    config = _kubeconfig(environment)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    done = _status(environment, tmp_path, config)
    assert done.returncode == 5
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_of_another_authority_is_refused(environment: Deployed, tmp_path: Path) -> None:
    """The same address, given to another cluster since."""
    config = _kubeconfig(environment)
    authority = base64.b64encode(Path(_any_authority()).read_bytes()).decode()
    config["clusters"][0]["cluster"]["certificate-authority-data"] = authority
    done = _status(environment, tmp_path, config)
    assert done.returncode == 5
    assert "certificate" in done.stderr.lower()


def test_inside_a_cluster_its_own_account_is_used(environment: Deployed, tmp_path: Path) -> None:
    """As a job of the cluster would run it: no kubeconfig, the account's token, the service address."""
    machine = environment.machine
    namespace = "kube-system"
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "promoter"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }
    client.apply(machine, [binding])
    try:
        account = tmp_path / "account"
        account.mkdir()
        (account / "token").write_text(client.kubectl(machine, "create", "token", "default", f"--namespace={namespace}").stdout.strip())
        (account / "ca.crt").write_bytes((machine.pki / "ca.crt").read_bytes())
        project = commands.project(tmp_path, ENVIRONMENT, {"context": None})
        mounted = 'mkdir -p /run/secrets/kubernetes.io && ln -sfn $1 /run/secrets/kubernetes.io/serviceaccount && shift && exec "$@"'
        done = commands.run(
            machine,
            "status",
            "--json",
            f"--project={project}",
            more={"KUBECONFIG": "/nowhere", "KUBERNETES_SERVICE_HOST": SERVICE_ADDRESS, "KUBERNETES_SERVICE_PORT": "443"},
            inside=[*enclosure.prefix(machine.folder), "sh", "-c", mounted, "sh", str(account)],
        )
    finally:
        client.kubectl(machine, "delete", "clusterrolebinding", "promoter")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["slots"]["blue"]["ready"]


def _kubeconfig(deployed: Deployed) -> Any:
    return yaml.safe_load(deployed.machine.kubeconfig.read_text())


def _status(deployed: Deployed, folder: Path, config: Any, *words: str) -> commands.Done:
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return commands.run(deployed.machine, *(words or ("status", "--json")), more={"KUBECONFIG": str(path)}, seconds=120)


def _versions(deployed: Deployed) -> str:
    """Changes with every write of a slot, the route or the journal."""
    kinds = "deployments,httproutes.gateway.networking.k8s.io,configmaps,leases,services"
    return deployed.kubectl("get", kinds, "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation} {.data}{end}")


def _any_authority() -> str:
    import certifi

    return certifi.where()


@contextmanager
def _listener() -> Iterator[tuple[int, list[str]]]:
    """A port on loopback and the addresses of who connected to it."""
    connections: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, peer = listening.accept()
                except OSError:
                    return
                connections.append(str(peer))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1], connections
        listening.shutdown(socket.SHUT_RDWR)
