"""What a newcomer does first: `scripts/up` in a fresh clone with empty caches."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.parts, pytest.mark.slow, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[3]
COLD_SECONDS, WARM_SECONDS = 300, 20


@pytest.fixture
def clone(tmp_path):
    """This commit in a folder of its own, on a port of its own."""
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a repository")
    made = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(made)], check=True)
    file = made / "stacks" / "Pulumi.local.yaml"
    document = yaml.safe_load(file.read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        document["config"]["inferstack:environment"]["gateway"] = {"port": probe.getsockname()[1]}
    file.write_text(yaml.safe_dump(document))
    yield made
    if (made / ".venv/bin/inferstack").exists():
        subprocess.run([made / ".venv/bin/inferstack", "down", "local", "--drain-seconds", "1"], cwd=made, check=True, capture_output=True)


def first_token_seconds(clone, caches):
    folders = {"UV_CACHE_DIR": "uv", "PIP_CACHE_DIR": "pip", "INFERSTACK_CACHE": "weights", "XDG_CACHE_HOME": "xdg"}
    environment = {**os.environ, **{name: str(caches / folder) for name, folder in folders.items()}, "PYTHON": sys.executable}
    for name in ("VIRTUAL_ENV", "PYTHONPATH"):
        environment.pop(name, None)
    done = subprocess.run([clone / "scripts/up"], cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return float(re.search(r"first token after ([\d.]+) s", done.stdout)[1])


def test_a_fresh_clone_answers_within_five_minutes_and_the_second_time_within_twenty_seconds(clone):
    with tempfile.TemporaryDirectory() as caches:
        cold = first_token_seconds(clone, Path(caches))
        subprocess.run(
            [clone / ".venv/bin/inferstack", "down", "local", "--drain-seconds", "1"], cwd=clone, check=True, capture_output=True
        )
        warm = first_token_seconds(clone, Path(caches))
    assert not any((clone / ".venv/lib").glob("python*/site-packages/pulumi*")), "`up` needs no cloud SDK"
    print(f"first token: cold {cold:.1f} s, warm {warm:.1f} s")
    assert cold < COLD_SECONDS
    assert warm < WARM_SECONDS
