"""Checkov, a scanner that nobody here wrote, on the objects of every environment: what it finds is explained or mended."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from inferstack.environment import environment_names
from inferstack.program.plan import plan_environment
from inferstack_policies import RULES

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
CHECKOV = ROOT / ".venv-scan/bin/checkov"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHECKOV.exists(), reason="no Checkov: `scripts/setup scan` installs it")]


def checkov(*arguments: str) -> str:
    return subprocess.run([CHECKOV, *arguments], capture_output=True, text=True, timeout=300, check=False).stdout


def test_the_objects_of_every_environment_have_no_finding_that_is_not_explained(tmp_path: Path) -> None:
    rendered = 0
    for name in environment_names(ROOT / "stacks"):
        for i, item in enumerate(plan_environment(ROOT, name).resources):
            if item.type.startswith("kubernetes:") and "kind" in item.inputs:
                (tmp_path / f"{name}-{i}.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(item.inputs))))
                rendered += 1
    report = json.loads(checkov("-d", str(tmp_path), "--framework", "kubernetes", "--compact", "--quiet", "-o", "json"))
    explained = yaml.safe_load((HERE / "explained.yaml").read_text())
    failed = {
        row["check_id"] if row["check_id"] in explained else f"{row['check_id']} {row['resource']}"
        for row in report["results"]["failed_checks"]
    }
    assert report["summary"]["resource_count"] > 0
    assert report["summary"]["parsing_errors"] == 0
    assert rendered > 0
    assert failed == set(explained)


def test_every_checkov_id_that_a_rule_names_exists() -> None:
    listed = checkov("--list")
    assert [(rule.id, also) for rule in RULES for also in rule.also if also.startswith("CKV") and f" {also} " not in listed] == []
