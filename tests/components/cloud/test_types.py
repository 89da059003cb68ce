"""The type checker against the real SDKs of the clouds; minutes of work, so in the slow lane."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SETTINGS = f"""[mypy]
strict = True
python_version = 3.11
mypy_path = {ROOT / "components"}, {ROOT / "dashboards"}, {ROOT / "policies"}, {ROOT / "runtime"}
explicit_package_bases = True
plugins = pydantic.mypy
[mypy-grpc.*,google.*]
ignore_missing_imports = True
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("INFERSTACK_LONG"), reason="checking whole cloud SDKs takes many minutes: INFERSTACK_LONG=1 does it")
def test_the_cloud_modules_are_typed_and_a_typo_in_an_argument_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    wrong = tmp_path / "wrong.py"
    wrong.write_text('import pulumi_gcp as gcp\n\ngcp.container.NodePool("x", cluster="c", node_config={"machine_typ": "a"})\n')
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            tmp_path / "mypy.ini",
            "--cache-dir",
            ROOT / ".mypy_cache" / "clouds",
            wrong,
            ROOT / "components/inferstack/cloud",
            ROOT / "components/inferstack/serving/clouds",
        ],
        capture_output=True,
        text=True,
    )
    errors = [line for line in process.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, "\n".join(line[:400] for line in errors)
    assert "/wrong.py:3: error: No overload variant" in errors[0]  # the path may be that of an earlier, cached run
