"""The workflows: valid, linted, pinned, and each job with no more rights and secrets than this table says."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))

READ = {"contents": "read"}
CLOUD = {"contents": "read", "id-token": "write"}
DEPLOY = CLOUD | {"packages": "read"}
KEY = {"INFERSTACK_KEY"}

# workflow → (triggers, {job: (permissions, secrets beside the job's own token, guarding environment)})
TABLE: dict[str, tuple[set[str], dict[str, tuple[dict[str, str], set[str], bool]]]] = {
    "verify": ({"workflow_call"}, {job: (READ, set(), False) for job in ("check", "test", "audit", "plan", "image", "scan")}),
    "pull-request": (
        {"pull_request"},
        {"verify": (READ, set(), False), "report": (READ, set(), False), "comment": (READ | {"pull-requests": "write"}, set(), False)},
    ),
    "main": (
        {"push"},
        {
            "verify": (READ, set(), False),
            "publish": (CLOUD | {"packages": "write", "attestations": "write"}, set(), False),
            "staging": (DEPLOY, set(), False),
        },
    ),
    "deploy": ({"workflow_call", "workflow_dispatch"}, {"deploy": (DEPLOY, KEY, True)}),
    "promote": ({"workflow_dispatch"}, {"promote": (DEPLOY, KEY, True)}),
    "canary": ({"workflow_dispatch"}, {"canary": (DEPLOY, KEY, True)}),
    "rollback": ({"workflow_dispatch"}, {"rollback": (DEPLOY, set(), True)}),
    "teardown": ({"workflow_dispatch"}, {"teardown": (DEPLOY, set(), True)}),
    "drift": ({"schedule", "workflow_dispatch"}, {"drift": (CLOUD, set(), True)}),
    "pull-request-stacks": (
        {"pull_request", "schedule", "workflow_dispatch"},
        {"stack": (DEPLOY, set(), True), "sweep": (CLOUD, set(), True)},
    ),
    "release": ({"push"}, {"release": ({"contents": "write", "packages": "write"}, set(), True)}),
}


def load(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    content["on"] = content.pop(True, content.get("on"))  # YAML 1.1 reads `on` as true
    return content


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load(GITHUB / "workflows" / f"{name}.yml")["jobs"]
    return found


def steps() -> list[tuple[str, dict[str, Any]]]:
    found = [
        (f"{file.stem}/{name}", step) for file in WORKFLOWS for name, job in load(file)["jobs"].items() for step in job.get("steps", [])
    ]
    return found + [(file.parent.name, step) for file in ACTIONS for step in load(file)["runs"]["steps"]]


def venv(tool: str) -> str:
    return shutil.which(tool, path=f"{ROOT / '.venv/bin'}:{os.environ['PATH']}") or pytest.fail(f"{tool} is not installed: scripts/setup")


def test_every_workflow_stands_in_the_table() -> None:
    assert {file.stem for file in WORKFLOWS} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_triggers_permissions_and_secrets_are_those_of_the_table(name: str) -> None:
    workflow, (triggers, expected) = load(GITHUB / "workflows" / f"{name}.yml"), TABLE[name]
    assert set(workflow["on"]) == triggers
    assert workflow["permissions"] == {}, "rights are given to jobs, none to the workflow"
    found = {
        job: (body["permissions"], set(re.findall(r"secrets\.(\w+)", yaml.dump(body))), "environment" in body)
        for job, body in workflow["jobs"].items()
    }
    assert found == expected


def test_a_pull_request_of_a_fork_meets_no_secret_and_no_right_to_write() -> None:
    for name in ("pull-request", "pull-request-stacks"):
        for job, body in jobs(name).items():
            own = "github.event.pull_request.head.repo.full_name == github.repository" in str(body.get("if"))
            never = body.get("if") == "github.event_name != 'pull_request'"
            harmless = set(body["permissions"].values()) <= {"read"} and "environment" not in body
            assert own or never or harmless, f"{name}/{job}"
    assert all(set(body["permissions"].values()) == {"read"} for body in jobs("verify").values())
    assert "pull_request_target" not in str([load(file)["on"] for file in WORKFLOWS])
    assert "workflow_run" not in str([load(file)["on"] for file in WORKFLOWS])


def test_a_pull_request_gets_tests_plan_image_scan_and_audit() -> None:
    text = (GITHUB / "workflows" / "verify.yml").read_text()
    for script in (
        "scripts/check",
        "scripts/test",
        "scripts/plans",
        "scripts/image",
        "scripts/image-try",
        "scripts/sbom",
        "scripts/gate scan",
        "scripts/audit",
    ):
        assert script in text
    assert jobs("pull-request")["verify"]["uses"] == jobs("main")["verify"]["uses"] == "./.github/workflows/verify.yml"


def test_every_action_is_pinned_by_full_hash_with_its_version_beside_it() -> None:
    seen: dict[str, set[str]] = {}
    for file in [*WORKFLOWS, *ACTIONS]:
        for line in file.read_text().splitlines():
            if "uses:" in line and "uses: ./" not in line:
                match = re.search(r"uses: ([\w./-]+)@([0-9a-f]{40}) # (v\d+(?:\.\d+)+)$", line)
                assert match, f"{file.name}: {line.strip()}"
                seen.setdefault(match[1], set()).add(f"{match[2]} {match[3]}")
    assert all(len(versions) == 1 for versions in seen.values()), "one action, one version"


def test_the_scanner_has_neither_credentials_nor_rights() -> None:
    scanning = [(name, job) for name in TABLE for job, body in jobs(name).items() if "trivy-action" in yaml.dump(body)]
    assert scanning == [("verify", "scan")]
    assert jobs("verify")["scan"]["permissions"] == READ


def test_what_changes_a_stack_waits_for_its_turn_and_is_never_cancelled() -> None:
    for name, (_, expected) in TABLE.items():
        for job, (_, _, guarded) in expected.items():
            body = jobs(name)[job]
            if guarded and name != "release":
                assert body["concurrency"]["group"].startswith("stack-"), f"{name}/{job}"
                assert body["concurrency"]["cancel-in-progress"] is False, f"{name}/{job}"


def test_a_failure_before_a_pipe_fails_its_step() -> None:
    """Where no shell is named GitHub runs `bash -e`, for which a failing gate before `| tee` is a pass; `bash` runs with pipefail."""
    for file in WORKFLOWS:
        workflow = load(file)
        for name, job in workflow["jobs"].items():
            for step in job.get("steps", []):
                shell = step.get("shell") or (job.get("defaults") or workflow.get("defaults") or {}).get("run", {}).get("shell")
                assert "run" not in step or shell == "bash", f"{file.stem}/{name}"
    assert all(step["shell"] == "bash" for _, step in steps() if "run" in step and "shell" in step)


def test_every_image_that_is_published_was_scanned() -> None:
    scanned = set(re.findall(r"input: images/(\w+)\.tar", (GITHUB / "workflows" / "verify.yml").read_text()))
    built = {row["architecture"] for row in jobs("verify")["image"]["strategy"]["matrix"]["include"]}
    pushed = set(re.findall(r"images/(\w+)\.tar", yaml.dump(jobs("main")["publish"], width=1000)))
    assert scanned == built == pushed


def test_no_step_writes_an_expression_into_a_script() -> None:
    assert [where for where, step in steps() if "${{" in step.get("run", "")] == []


def test_what_is_published_was_built_by_the_jobs_that_tested_and_scanned_it() -> None:
    publish = yaml.dump(jobs("main")["publish"])
    assert jobs("main")["publish"]["needs"] == "verify"
    assert "scripts/publish" in publish
    assert "scripts/image " not in publish
    assert "build-push" not in publish


def test_every_script_that_a_step_calls_exists_and_may_be_run() -> None:
    called = {script for _, step in steps() for script in re.findall(r"\bscripts/[\w-]+", step.get("run", ""))}
    assert len(called) > 12
    assert {script for script in called if not os.access(ROOT / script, os.X_OK)} == set()


def test_every_script_for_workflows_is_called_by_one() -> None:
    text = "".join(file.read_text() for file in [*WORKFLOWS, *ACTIONS])
    mine = [
        "audit",
        "comment",
        "deploy",
        "drift",
        "gate",
        "image",
        "image-try",
        "plans",
        "pr-stack",
        "promote",
        "publish",
        "release",
        "report",
        "sbom",
    ]
    assert [name for name in [*mine, "sign", "teardown"] if f"scripts/{name}" not in text] == []


def test_new_versions_cool_down_for_a_week() -> None:
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "docker", "uv"}
    assert all(update["cooldown"]["default-days"] >= 7 for update in updates)


def test_they_follow_githubs_schema() -> None:
    for schema, files in (("github-workflows", WORKFLOWS), ("github-actions", ACTIONS), ("dependabot", [GITHUB / "dependabot.yml"])):
        done = subprocess.run([venv("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing_as_an_auditor() -> None:
    done = subprocess.run(
        [venv("zizmor"), "--offline", "--persona=auditor", "--no-progress", "--color=never", GITHUB], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "No findings" in done.stdout + done.stderr


@pytest.fixture(scope="session")
def actionlint() -> str:
    """actionlint from PATH, else built once from its Go module."""
    if found := shutil.which("actionlint"):
        return found
    go = shutil.which("go")
    if go is None:
        pytest.skip("no actionlint on PATH and no Go to build it with")
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "inferstack-tools" / "actionlint-1.7.12"
    if not (home / "actionlint").exists():
        done = subprocess.run(
            [go, "install", "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"],
            env=os.environ | {"GOBIN": str(home)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            pytest.skip(f"actionlint could not be built: {done.stderr.strip().splitlines()[-1]}")
    return str(home / "actionlint")


@pytest.mark.slow
def test_actionlint_finds_nothing(actionlint: str) -> None:
    done = subprocess.run([actionlint, "-no-color", "-shellcheck", venv("shellcheck")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([venv("hadolint"), ROOT / "runtime" / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
