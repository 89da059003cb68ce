"""The environment by the real engine: `pulumi up` makes the same objects, a second run changes nothing, `destroy` leaves nothing."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import keys, slots
from harness.slots import ENVIRONMENT, NAMESPACE
from machine import client, lifecycle, runtime_image
from machine.layout import Machine, cache_folder, project_root

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def pulumi(pods: Machine, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of `pulumi` commands: state in a folder of this test, this machine's kubeconfig. Skips without the program."""
    if not shutil.which("pulumi"):
        pytest.skip("no `pulumi` on PATH")
    try:
        lifecycle.import_image(pods, runtime_image.archive(project_root(), cache_folder(), print))
    except runtime_image.CannotBuildImage as error:
        pytest.skip(f"no image of the runtime: {error}")
    slots.remove(pods)
    state = tmp_path / "state"
    state.mkdir()
    yield os.environ | {
        "PULUMI_BACKEND_URL": f"file://{state}",
        "PULUMI_HOME": str(tmp_path / "home"),
        "PULUMI_CONFIG_PASSPHRASE": "tests",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "KUBECONFIG": str(pods.kubeconfig),
    }
    slots.remove(pods)


def test_up_deploys_ready_slots_a_second_run_changes_nothing_and_destroy_leaves_nothing(
    pods: Machine, pulumi: dict[str, str], tmp_path: Path
) -> None:
    project = tmp_path / "project"  # a copy: a new stack is written into its folder
    project.mkdir()
    for part in ("Pulumi.yaml", "stacks", "components", "runtime", "policies", ".venv"):
        (project / part).symlink_to(project_root() / part) if part in ("components", "runtime", "policies", ".venv") else _copy(
            part, project
        )
    _run(pulumi, project, "stack", "init", ENVIRONMENT)
    threading.Thread(target=_bring_keys, args=(pods,), daemon=True).start()
    _run(pulumi, project, "up", "--yes", "--non-interactive", "--skip-preview")
    deployed = slots.Deployed(pods, [], 0)
    for slot in slots.SLOTS:
        deployed.wait_ready(slot)
    deployed.wait_answers("blue")
    _run(pulumi, project, "preview", "--expect-no-changes", "--non-interactive", "--diff")
    _run(pulumi, project, "destroy", "--yes", "--non-interactive", "--skip-preview")
    assert client.get(pods, f"/api/v1/namespaces/{NAMESPACE}")[0] == 404


def _copy(part: str, project: Path) -> None:
    source = project_root() / part
    if source.is_dir():
        shutil.copytree(source, project / part)
    else:
        shutil.copy(source, project / part)


def _bring_keys(machine: Machine) -> None:
    """The keys come from outside, as a platform team's secret store would bring them, once the namespace is there."""
    client.wait("namespace", 120, lambda: client.get(machine, f"/api/v1/namespaces/{NAMESPACE}")[0] == 200)
    client.apply(machine, [keys.secret("inferstack-keys", NAMESPACE)])


def _run(environment: dict[str, str], project: Path, *arguments: str) -> None:
    command = ["pulumi", *arguments, *(() if arguments[0] == "stack" else ("--stack", ENVIRONMENT))]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=540)
    assert done.returncode == 0, f"pulumi {' '.join(arguments)}:\n{done.stdout[-3000:]}\n{done.stderr[-1500:]}"
