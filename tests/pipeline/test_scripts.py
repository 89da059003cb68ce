"""The scripts as the workflows run them, with tools on PATH that write down how they were called."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

pytestmark = pytest.mark.slow  # hundreds of short processes

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "c3" * 32
REPOSITORY = "ghcr.io/owner/inferstack/runtime"
IMAGE = f"{REPOSITORY}@{DIGEST}"
SIGNATURE = json.dumps([{"critical": {"image": {"docker-manifest-digest": DIGEST}}}])
PLAN = {"environment": "prod", "resources": [], "findings": [], "cost": {"hourly_usd": 0.5, "during_promotion_hourly_usd": 1.0}}
RECORDER = """#!/bin/sh
[ -t 0 ] || input=$(cat)
printf '%s\\0' "$(basename "$0")" "$@" "${input:+<$input}" >> "$CALLS"
printf '\\n' >> "$CALLS"
"""


@dataclass
class Desk:
    """A checkout with its scripts and recorded tools; `answers` are shell bodies by tool, run after the call is written down."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def tool(self, name: str, body: str = "", folder: str = "bin") -> None:
        file = self.root / folder / name
        file.write_text(RECORDER + body)
        file.chmod(0o755)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.root, env=self.environment | environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )

    @property
    def calls(self) -> list[str]:
        """Calls of the tools, one line each."""
        file = Path(self.environment["CALLS"])
        lines = file.read_text().split("\0\n") if file.exists() else []
        return [" ".join(part for part in line.split("\0") if part) for line in lines if line]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    if not shutil.which("jq"):
        pytest.skip("no jq on PATH, which GitHub's machines have")
    for folder in ("scripts", "stacks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    made = Desk(tmp_path, {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path), "CALLS": str(tmp_path / "calls")})
    made.environment |= {"GITHUB_REPOSITORY": "owner/inferstack", "INFERSTACK_KEY": "sk-test"}
    made.tool("cosign", f"[ $1 != verify ] || echo '{SIGNATURE}'")
    made.tool("pulumi", 'echo "${INFERSTACK_VERIFIED_IMAGES:-}" > "$HOME/verified-images"')
    made.tool("inferstack", plan(PLAN), ".venv/bin")
    return made


def plan(content: dict[str, Any], code: int = 0) -> str:
    return f"[ $1 != plan ] || {{ echo '{json.dumps(content)}'; exit {code}; }}"


def verbs(calls: list[str]) -> list[str]:
    return [" ".join(call.split()[:2]) for call in calls]


def test_deploy_passes_its_gates_before_it_touches_the_stack(desk: Desk) -> None:
    done = desk.run("scripts/deploy", "kubernetes", IMAGE)
    assert done.returncode == 0, done.stderr
    assert verbs(desk.calls) == ["cosign verify", "pulumi stack", "pulumi config", "inferstack plan", "pulumi up"]
    identity = "--certificate-identity https://github.com/owner/inferstack/.github/workflows/main.yml@refs/heads/main"
    assert identity in desk.calls[0]
    assert f"inferstack:environment.engine.image {IMAGE}" in desk.calls[2]
    assert "--policy-pack policies" in desk.calls[-1]
    assert (desk.root / "verified-images").read_text().split() == [IMAGE], "the policy pack lets nothing else run"


def unsigned(desk: Desk) -> None:
    desk.tool("cosign", "echo 'Error: no matching signatures' >&2; exit 10")


def signed_otherwise(desk: Desk) -> None:
    desk.tool("cosign", f"echo '{SIGNATURE.replace('c3', 'd4')}'")


def expired_waiver(desk: Desk) -> None:
    file = desk.root / "stacks/Pulumi.kubernetes.yaml"
    waiver = "{rule: pod-probes, reason: not mended as yet, owner: serving, expires: '2026-01-31'}"
    file.write_text(file.read_text() + f"    waivers: [{waiver}]\n")


def bad_plan(desk: Desk) -> None:
    finding = {"rule": "cost-ceiling", "severity": "error", "path": "budget.hourly_usd", "message": "above the ceiling."}
    desk.tool("inferstack", plan(PLAN | {"findings": [finding]}, 3), ".venv/bin")


@pytest.mark.parametrize(
    ("image", "spoil", "says"),
    [
        (f"{REPOSITORY}:latest", None, "is not named by its digest"),
        (IMAGE, unsigned, "has no signature of this repository's release workflow (cosign: Error: no matching signatures)"),
        (IMAGE, signed_otherwise, "sign and deploy the same digest"),
        (IMAGE, expired_waiver, "the waiver of pod-probes in environment kubernetes expired on 2026-01-31"),
        (IMAGE, bad_plan, "1 finding of severity error, first cost-ceiling at budget.hourly_usd"),
    ],
)
def test_deploy_stops_with_one_sentence(desk: Desk, image: str, spoil: Callable[[Desk], None] | None, says: str) -> None:
    if spoil:
        spoil(desk)
    done = desk.run("scripts/deploy", "kubernetes", image)
    assert done.returncode == 3
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("refused: ")
    assert says in sentence
    assert "pulumi up" not in verbs(desk.calls)


@pytest.mark.parametrize("failing", ["inferstack", "pulumi"])
def test_deploy_fails_when_a_tool_fails(desk: Desk, failing: str) -> None:
    desk.tool(failing, "exit 5", ".venv/bin" if failing == "inferstack" else "bin")
    assert desk.run("scripts/deploy", "kubernetes", IMAGE).returncode == 5
    assert "pulumi up" not in verbs(desk.calls)


def test_verify_without_cosign_is_no_pass(desk: Desk) -> None:
    (desk.root / "bin/cosign").unlink()
    done = desk.run("scripts/verify", IMAGE, PATH=f"{desk.root}/bin:/usr/bin:/bin")
    assert (done.returncode, "needs cosign" in done.stderr) == (5, True)


def promote(desk: Desk, health: int = 0, promotion: int = 0) -> subprocess.CompletedProcess[str]:
    desk.tool("inferstack", f"[ $1 != promote ] || exit {promotion}", ".venv/bin")
    gate = desk.root / "scripts/gate"
    gate.write_text(gate.read_text().replace("exec", f'[ "$1${{4:-}}" != health ] || exit {health}\nexec'))
    return desk.run("scripts/promote", "kubernetes", IMAGE, "https://llm.example", "--strategy", "canary")


def test_promote_begins_by_finishing_what_was_cut_off(desk: Desk) -> None:
    assert promote(desk).returncode == 0
    assert verbs(desk.calls) == ["cosign verify", "inferstack recover", "inferstack promote"]
    assert desk.calls[-1].endswith(f"promote kubernetes --set slot.image={IMAGE} --strategy canary")


def test_a_failing_gate_of_a_promotion_stops_with_one_sentence(desk: Desk) -> None:
    done = promote(desk, promotion=4)
    assert done.returncode == 4
    assert done.stderr.strip().splitlines()[-1].startswith("refused: a gate failed and kubernetes serves its previous version")


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ({"INFERSTACK_KEY": ""}, "INFERSTACK_KEY is empty"),
        ({"INFERSTACK_KEY": "a\nb"}, "a line end"),
        ({"URL": ""}, "is no URL of a gateway"),
        ({"URL": "https://["}, "is no URL of a gateway"),
    ],
)
def test_what_the_last_check_needs_is_asked_for_before_anything_is_promoted(desk: Desk, missing: dict[str, str], says: str) -> None:
    desk.environment |= {"URL": "https://llm.example"} | missing
    done = desk.run("scripts/promote", "kubernetes", IMAGE, desk.environment["URL"])
    assert done.returncode == 2
    (sentence,) = done.stderr.strip().splitlines()
    assert says in sentence
    assert verbs(desk.calls) == ["cosign verify"]


@pytest.mark.parametrize(
    "call",
    [
        ("deploy", "kubernetes", IMAGE),
        ("drift", "prod"),
        ("teardown", "prod", "prod"),
        ("pr-stack", "up", "12", IMAGE, "1"),
        ("pr-stack", "down", "12"),
        ("pr-stack", "sweep", "24"),
    ],
)
def test_a_tool_that_is_not_there_is_named_before_anything_is_touched(desk: Desk, call: tuple[str, ...]) -> None:
    (desk.root / "bin/pulumi").unlink()
    done = desk.run(f"scripts/{call[0]}", *call[1:], PATH=f"{desk.root}/bin:/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (5, f"scripts/{call[0]}: needs pulumi on PATH\n")
    assert desk.calls == []


@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        (("pr-stack", "up", "12", "", "1"), 3, "image '' is not named by its digest"),
        (("pr-stack", "up", "12", IMAGE, "nan"), 2, "a ceiling of nan US dollars is none"),
        (("pr-stack", "sweep", "nan"), 2, "hours: expected a number"),
        (("deploy", "", IMAGE), 2, "one of "),
        (("deploy", "kubernetes", ""), 3, "image '' is not named by its digest"),
        (("verify", IMAGE), 1, "GITHUB_REPOSITORY: is empty"),
    ],
)
def test_an_empty_variable_is_one_sentence_and_touches_no_stack(desk: Desk, call: tuple[str, ...], code: int, says: str) -> None:
    empty = {"GITHUB_REPOSITORY": ""} if call[0] == "verify" else {}
    desk.tool("pulumi", "[ \"$2\" != ls ] || echo '[]'")
    done = desk.run(f"scripts/{call[0]}", *call[1:], **empty)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not [call for call in desk.calls if call.startswith("pulumi") and " ls " not in call]


@pytest.mark.parametrize("name", ["deploy", "promote", "canary", "rollback"])
def test_a_step_of_a_workflow_fails_with_what_it_runs(desk: Desk, name: str) -> None:
    workflow = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
    (job,) = workflow["jobs"].values()
    for program in ("scripts/gate", "scripts/promote", ".venv/bin/inferstack"):
        (desk.root / program).write_text("#!/bin/sh\n[ $1 = recover ] || { echo said; exit 3; }\n")
    shell = {"bash": ("bash", "--noprofile", "--norc", "-eo", "pipefail")}[workflow["defaults"]["run"]["shell"]]
    names = dict.fromkeys(("STACK", "ENVIRONMENT", "IMAGE", "URL", "STEPS"), "x") | {"GITHUB_STEP_SUMMARY": str(desk.root / "summary")}
    done = desk.run(*shell, "-c", job["steps"][-1]["run"], **names)
    assert done.returncode == 3, done.stderr
    assert (desk.root / "summary").read_text() == "said\n"


def test_real_requests_that_fail_afterwards_roll_back(desk: Desk) -> None:
    done = promote(desk, health=3)
    assert done.returncode == 4
    assert verbs(desk.calls)[-1] == "inferstack rollback"
    assert "was rolled back" in done.stderr


def test_an_unsigned_image_is_never_promoted(desk: Desk) -> None:
    unsigned(desk)
    assert promote(desk).returncode == 3
    assert verbs(desk.calls) == ["cosign verify"]


COMMENTS = [
    {"id": 1, "user": {"login": "someone"}, "body": "<!-- inferstack-plan: prod -->\nnot mine"},
    {"id": 2, "user": {"login": "github-actions[bot]"}, "body": "<!-- inferstack-plan: staging -->\n"},
    {"id": 3, "user": {"login": "github-actions[bot]"}, "body": "<!-- inferstack-plan: prod -->\nold"},
]


@pytest.mark.parametrize(
    ("comments", "call"),
    [
        (COMMENTS, "--method PATCH repos/owner/inferstack/issues/comments/3"),
        (COMMENTS[:2], "--method POST repos/owner/inferstack/issues/7/comments"),
    ],
)
def test_the_comment_is_edited_not_repeated(desk: Desk, comments: list[dict[str, Any]], call: str) -> None:
    desk.tool("gh", f"case \"$*\" in *--paginate*) printf '%s' '{json.dumps(comments)}';; esac")
    body = '<!-- inferstack-plan: prod -->\n\n"quoted" $(id) `id` \\n\n'
    (desk.root / "report.md").write_text(body)
    done = desk.run("scripts/comment", "7", "report.md")
    assert done.returncode == 0, done.stderr
    assert call in desk.calls[-1]
    assert json.loads(desk.calls[-1].partition("<")[2]) == {"body": body}


@pytest.mark.parametrize(
    ("number", "first"), [("7; id", "<!-- inferstack-plan: prod -->"), ("7", "no marker"), ("7", "<!-- inferstack-plan: a --> b -->")]
)
def test_a_wrong_number_or_marker_posts_nothing(desk: Desk, number: str, first: str) -> None:
    desk.tool("gh")
    (desk.root / "report.md").write_text(first + "\n")
    assert desk.run("scripts/comment", number, "report.md").returncode == 2
    assert desk.calls == []


def test_publish_pushes_the_given_archives_and_prints_the_digest_of_their_index(desk: Desk) -> None:
    desk.tool(
        "docker",
        'case "$*" in\n'
        '  load*amd64.tar) echo "Loaded image: inferstack-runtime:amd64";;\n'
        '  load*) echo "Loaded image: inferstack-runtime:arm64";;\n'
        f'  *RepoDigests*arm64) echo "other/name@{DIGEST}"; echo "{REPOSITORY}@sha256:bb";;\n'
        f'  *RepoDigests*) echo "{REPOSITORY}@sha256:aa";;\n'
        "  *Architecture*arm64) echo arm64;;\n"
        "  *Architecture*) echo amd64;;\n"
        f"  *imagetools?inspect*) echo {DIGEST};;\n"
        "esac",
    )
    done = desk.run("scripts/publish", REPOSITORY, "abc", "amd64.tar", "arm64.tar")
    assert (done.returncode, done.stdout.strip()) == (0, DIGEST), done.stderr
    assert f"docker push --quiet {REPOSITORY}:abc-arm64" in desk.calls
    assert f"docker buildx imagetools create --tag {REPOSITORY}:abc {REPOSITORY}@sha256:aa {REPOSITORY}@sha256:bb" in desk.calls


def test_sign_signs_by_digest_only_and_attaches_each_bill(desk: Desk) -> None:
    assert desk.run("scripts/sign", f"{REPOSITORY}:v1").returncode == 3
    assert desk.calls == []
    assert desk.run("scripts/sign", IMAGE, "a.cdx.json", "b.cdx.json").returncode == 0
    assert desk.calls == [
        f"cosign sign --yes --recursive {IMAGE}",
        f"cosign attest --yes --type cyclonedx --predicate a.cdx.json {IMAGE}",
        f"cosign attest --yes --type cyclonedx --predicate b.cdx.json {IMAGE}",
    ]


def test_drift_is_one_sentence(desk: Desk) -> None:
    assert desk.run("scripts/drift", "prod").returncode == 0
    assert "--refresh --expect-no-changes" in desk.calls[-1]
    desk.tool("pulumi", "[ $1 != preview ] || { echo 'error: no changes were expected but changes were proposed' >&2; exit 1; }")
    done = desk.run("scripts/drift", "prod")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("refused: prod differs from its program")


def test_a_preview_that_fails_is_not_called_drift(desk: Desk) -> None:
    desk.tool("pulumi", "[ $1 != preview ] || { echo 'error: could not reach the state' >&2; exit 1; }")
    done = desk.run("scripts/drift", "prod")
    assert done.returncode == 5
    assert "could not reach the state" in done.stderr
    assert "differs" not in done.stderr


def test_a_stack_of_a_pull_request_is_planned_priced_and_then_deployed(desk: Desk) -> None:
    done = desk.run("scripts/pr-stack", "up", "12", IMAGE, "1")
    assert done.returncode == 0, done.stderr
    assert verbs(desk.calls) == ["inferstack plan", "cosign verify", "pulumi stack", "pulumi config", "inferstack plan", "pulumi up"]
    assert "--stack pr-12" in desk.calls[-1]
    assert "namespace: inferstack-pr-12" in (desk.root / "stacks/Pulumi.pr-12.yaml").read_text()


def test_a_stack_of_a_pull_request_above_its_ceiling_is_not_made(desk: Desk) -> None:
    done = desk.run("scripts/pr-stack", "up", "12", IMAGE, "0.99")
    assert done.returncode == 3
    assert "above the ceiling of 0.99" in done.stderr
    assert verbs(desk.calls) == ["inferstack plan"]


@pytest.mark.parametrize("number", ["1;id", "", "../x", "-1", "prod-gke"])
@pytest.mark.parametrize("command", [("up", IMAGE, "5"), ("down",)])
def test_what_is_no_number_of_a_pull_request_touches_no_stack(desk: Desk, number: str, command: tuple[str, ...]) -> None:
    before = sorted((desk.root / "stacks").iterdir())
    done = desk.run("scripts/pr-stack", command[0], number, *command[1:])
    assert done.returncode in (1, 2, 3)
    assert desk.calls == []
    assert sorted((desk.root / "stacks").iterdir()) == before


def test_the_sweep_takes_down_what_is_over_and_nothing_else(desk: Desk) -> None:
    stacks = [{"name": "prod", "lastUpdate": "2020-01-01T00:00:00Z"}, {"name": "pr-1", "lastUpdate": "2020-01-01T00:00:00Z"}]
    stacks += [{"name": "pr-2", "lastUpdate": "2999-01-01T00:00:00Z"}, {"name": "pr-3", "lastUpdate": "2999-01-01T00:00:00Z"}]
    desk.tool("pulumi", f"[ \"$2\" != ls ] || echo '{json.dumps(stacks)}'")
    done = desk.run("scripts/pr-stack", "sweep", "24", "3")
    assert done.returncode == 0, done.stderr
    assert [call.split("--stack ")[1] for call in desk.calls if " destroy " in call] == ["pr-1", "pr-3"]


def test_teardown_takes_the_slots_first_and_wants_the_name_twice(desk: Desk) -> None:
    names = [{"name": f"organization/inferstack/{name}"} for name in ("prod", "prod-blue", "prod-green", "product", "staging")]
    desk.tool("pulumi", f"[ \"$2\" != ls ] || echo '{json.dumps(names)}'")
    assert desk.run("scripts/teardown", "prod").returncode == 3
    assert desk.run("scripts/teardown", "prod", "production").returncode == 3
    assert desk.calls == []
    done = desk.run("scripts/teardown", "prod", "prod")
    assert done.returncode == 0, done.stderr
    assert [call.split("--stack ")[1] for call in desk.calls if " destroy " in call] == ["prod-green", "prod-blue", "prod"]
    assert desk.run("scripts/teardown", "nowhere", "nowhere").returncode == 2


def test_a_release_names_what_main_built_and_builds_nothing(desk: Desk) -> None:
    (desk.root / "CHANGELOG.md").write_text("# Changelog\n\n## [11.2.0]\n- Other.\n\n## [1.2.0] 2026-12-01\n- New.\n\n## [1.1.0]\n- Old.\n")
    desk.tool("docker", f'case "$*" in *inspect*) echo {DIGEST};; esac')
    desk.tool("gh", 'while [ $# -gt 0 ]; do [ "$1" != --notes-file ] || cat "$2" >> "$CALLS.notes"; shift; done')
    done = desk.run("scripts/release", REPOSITORY, "abc", "v1.2.0")
    assert done.returncode == 0, done.stderr
    assert verbs(desk.calls) == ["docker buildx", "cosign verify", "docker buildx", "gh release"]
    notes = (desk.root / "calls.notes").read_text()
    assert "New." in notes
    assert "Old." not in notes
    assert "Other." not in notes
    assert IMAGE in notes
    missing = desk.run("scripts/release", REPOSITORY, "abc", "v9.9.9")
    assert (missing.returncode, "no section for 9.9.9" in missing.stderr) == (3, True)


def test_plans_gates_every_environment_and_says_which_is_refused(desk: Desk) -> None:
    assert desk.run("scripts/plans", "out").returncode == 0
    names = {file.name.removeprefix("Pulumi.").removesuffix(".yaml") for file in (desk.root / "stacks").glob("Pulumi.*.yaml")}
    assert {file.stem for file in (desk.root / "out").glob("*.json")} == names
    bad_plan(desk)
    done = desk.run("scripts/plans", "out")
    assert done.returncode == 3
    assert done.stderr.count("refused: the plan of") == len(names)
    desk.tool("inferstack", "exit 2", ".venv/bin")
    assert desk.run("scripts/plans", "out").returncode == 2


def test_the_report_compares_with_the_base_and_names_the_scans(desk: Desk) -> None:
    base = desk.root / "base"
    shutil.copytree(desk.root / "scripts", base / "scripts")
    shutil.copytree(desk.root / "stacks", base / "stacks")
    (base / "scripts/setup").write_text("#!/bin/sh\n")
    (base / ".venv/bin").mkdir(parents=True)
    desk.tool("inferstack", plan(PLAN | {"cost": {"hourly_usd": 0.25}}), "base/.venv/bin")
    (desk.root / "found/plans").mkdir(parents=True)
    (desk.root / "found/scans").mkdir()
    (desk.root / "found/plans/kubernetes.json").write_text(json.dumps(PLAN))
    shutil.copy(ROOT / "tests/pipeline/inputs/scan.json", desk.root / "found/scans/image.json")
    done = desk.run("scripts/report", "base", "found", "out")
    assert done.returncode == 0, done.stderr
    assert "| US dollars per hour | 0.25 | 0.50 | +0.25 (+100%) |" in done.stdout
    assert "### Scan of <code>image</code>" in (desk.root / "out/kubernetes.md").read_text()


@pytest.mark.parametrize(
    "script",
    [
        "comment",
        "deploy",
        "drift",
        "image-try",
        "plans",
        "promote",
        "pr-stack",
        "publish",
        "release",
        "report",
        "sbom",
        "teardown",
        "verify",
    ],
)
def test_without_arguments_each_says_what_it_wants(desk: Desk, script: str) -> None:
    done = desk.run(f"scripts/{script}")
    assert done.returncode in (1, 2, 127)
    assert f"scripts/{script}" in done.stderr


@pytest.mark.parametrize(
    ("option", "passed"), [((), ""), (("--snapshot", "20261101T000000Z"), "20261101"), (("--snapshot", "commit"), "20251009")]
)
def test_an_image_takes_packages_of_a_named_day_of_the_commits_day_or_of_today(desk: Desk, option: tuple[str, ...], passed: str) -> None:
    shutil.copytree(ROOT / "runtime/image", desk.root / "runtime/image")
    shutil.copy(ROOT / "runtime/pyproject.toml", desk.root / "runtime")
    desk.tool("docker", "exit 1")
    desk.tool("git", "echo 0000")
    desk.tool("buildah", "[ $1 != images ] || echo 90 MB")
    done = desk.run("scripts/image", *option, SOURCE_DATE_EPOCH="1760000000")
    assert done.returncode == 0, done.stderr
    (build,) = (call for call in desk.calls if call.startswith("buildah bud"))
    assert re.findall(r"SNAPSHOT=(\S*)", build) == ([f"{passed}T000000Z"] if passed else [])
    assert "90 MB, built in" in done.stdout


@pytest.mark.parametrize(
    ("named", "known", "used"),
    [("", "http://mirror.test/debian/", "http://mirror.test/debian/"), ("http://own.test", "", "http://own.test")],
)
def test_a_base_comes_from_the_mirror_that_is_named_or_that_the_machine_uses(desk: Desk, named: str, known: str, used: str) -> None:
    desk.tool("buildah", "[ $1 != inspect ] || exit 1; [ $1 != from ] || echo working")
    desk.tool("mmdebstrap")
    desk.tool("apt-get", f"echo {known}")
    done = desk.run("scripts/image-base", "localhost/base", DEBIAN_MIRROR=named)
    assert (done.returncode, done.stdout) == (0, "localhost/base\n"), done.stderr
    (call,) = (call for call in desk.calls if call.startswith("mmdebstrap"))
    assert call.split()[-1] == used


def test_a_base_without_any_mirror_says_what_to_set(desk: Desk) -> None:
    desk.tool("buildah", "[ $1 != inspect ] || exit 1")
    desk.tool("mmdebstrap")
    desk.tool("apt-get", "exit 1")
    done = desk.run("scripts/image-base", "localhost/base")
    assert (done.returncode, "set DEBIAN_MIRROR=URL" in done.stderr) == (2, True)
    assert not any(call.startswith("mmdebstrap") for call in desk.calls)


def test_every_option_that_a_script_gives_to_the_command_exists() -> None:
    """The recorded tools take any option; the real command must know it."""
    calls = [
        (path.name, words)
        for path in (ROOT / "scripts").iterdir()
        for line in path.read_text().splitlines()
        for words in re.findall(r"\.venv/bin/inferstack\"? ([a-z][^|>;&#]*)", line)
    ]
    assert {"deploy", "plans", "pr-stack", "promote", "report"} <= {name for name, _ in calls}
    for name, call in calls:
        app = typer.Typer()
        app.callback()(lambda: None)
        command = call.split()[0]
        importlib.import_module(f"inferstack.cli.{command}").register(app)
        tree = typer.main.get_command(app).commands[command]
        commands = [tree, *getattr(tree, "commands", {}).values()]
        known = {option for each in commands for parameter in each.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z][a-z-]+", call)) <= known, f"scripts/{name}: inferstack {call}"
