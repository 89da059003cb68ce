"""The comment on a pull request: complete, stable, and inert whatever an author writes."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from inferstack.cli import run
from inferstack.delivery.comment import marker, render_comment
from inferstack.delivery.literal import literal
from inferstack.delivery.plans import BadInput, resource_changes

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "comment"


def read(name: str) -> Any:
    return json.loads((HERE / "inputs" / f"{name}.json").read_text())


CASES: dict[str, dict[str, Any]] = {
    "first-run": {"head": "head"},
    "changed": {"head": "head", "base": "base", "scans": ["scan"], "backtest": "backtest", "backtest_base": "backtest-base"},
    "unchanged": {"head": "base", "base": "base", "scans": ["clean-scan"]},
    "hostile": {"head": "hostile", "base": "base", "scans": ["hostile-scan"], "backtest": "hostile-backtest"},
}


def render(case: dict[str, Any]) -> str:
    inputs: dict[str, Any] = {key: read(name) for key, name in case.items() if key != "scans"}
    return render_comment(inputs.pop("head"), scans={name: read(name) for name in case.get("scans", [])}, **inputs)


@pytest.mark.parametrize("name", CASES)
def test_comment_is_the_golden_one(name: str) -> None:
    body, file = render(CASES[name]), GOLDEN / f"{name}.md"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(body)
    assert body == file.read_text(), f"UPDATE_GOLDEN=1 pytest {__file__} writes it anew; review the difference"


def inline_tokens(body: str) -> list[Token]:
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    return tokens + [child for token in tokens for child in token.children or []]


ALLOWED_HTML = {"<code>", "</code>", "<br>"}


def assert_inert(body: str) -> None:
    """No link, image, emphasis, heading or HTML but the renderer's own, and nothing outside code that GitHub would resolve."""
    tokens = inline_tokens(body)
    assert not {token.type for token in tokens} & {"link_open", "image", "em_open", "code_inline", "fence", "code_block", "s_open"}
    assert {token.content for token in tokens if token.type == "html_inline"} <= ALLOWED_HTML
    blocks = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert all(
        re.fullmatch(r"<!-- inferstack-plan: [A-Za-z0-9._-]* -->|<details><summary>\d+ (changes|hits)</summary>|</details>", b)
        for b in blocks
    )
    outside = re.sub(r"<code>[^<>]*</code>", "", body.partition("\n")[2])
    assert not re.search(r"@\w|#\d|://|www\.", outside)


def test_hostile_names_findings_and_reports_do_nothing() -> None:
    body = render(CASES["hostile"])
    assert_inert(body)
    assert "octocat" in body  # shown, not swallowed
    for word in ("script>", "](", "](http", "@octocat", "\u202e"):
        assert word not in body


def test_the_check_of_inertness_notices_what_it_should() -> None:
    for bad in ("@octocat\n", "[a](b)\n", "<b>x</b>\n", "**a** *b*\n", "see #12\n", "https://x\n"):
        with pytest.raises(AssertionError):
            assert_inert(marker("x") + "\n\n" + bad)


@given(st.text())
def test_any_text_is_literal(text: str) -> None:
    shown = literal(text)
    inner = shown.removeprefix("<code>").removesuffix("</code>")
    assert re.fullmatch(r"(?:[A-Za-z0-9 /,=()-]|&#\d+;)+|\(empty\)", inner)
    tokens = inline_tokens(f"| {shown} |\n| --- |\n| {shown} |\n")
    assert [token.content for token in tokens if token.type == "html_inline"].count("<code>") == 2


def test_the_marker_is_the_same_for_every_run_and_cannot_be_closed_early() -> None:
    assert marker("prod") == "<!-- inferstack-plan: prod -->"
    assert render(CASES["changed"]).splitlines()[0] == render(CASES["unchanged"]).splitlines()[0] == marker("prod")
    assert marker("a --> <b>").count("-->") == 1
    assert len({marker(name) for name in ("prod", "Prod", "pr_od", "pr.od", "prod-1")}) == 5
    assert len(render_comment({"environment": "a" * 100_000, "resources": [], "findings": [], "cost": None})) < 65_536


def test_a_huge_plan_still_fits_into_a_comment() -> None:
    row = {"rule": "r" * 200, "severity": "error", "path": "*" * 500, "message": "*" * 5000}
    resources = [
        {"type": "*" * 300, "name": f"*{i}" * 90, "stack": "*" * 300, "inputs": {str(k): "*" * 80 for k in range(9)}} for i in range(500)
    ]
    head = {
        "environment": "big",
        "resources": resources,
        "findings": [row | {"path": f"{i}" + "*" * 500} for i in range(500)],
        "cost": None,
    }
    hits = [
        {"VulnerabilityID": f"CVE-{i}" + "*" * 200, "PkgName": "*" * 300, "InstalledVersion": "*", "Severity": "HIGH"} for i in range(900)
    ]
    report = {"SchemaVersion": 2, "Results": [{"Target": "*" * 300, "Vulnerabilities": hits}]}
    body = render_comment(head, scans={"a": report, "b": report, "c": report})
    assert len(body) < 65_536
    assert "errors: 500" in body
    assert "more." in body


def test_more_reports_than_a_comment_holds_leave_the_verdict_and_the_cost() -> None:
    hit = {"VulnerabilityID": "*" * 200, "PkgName": "*" * 200, "InstalledVersion": "*", "Severity": "HIGH", "FixedVersion": "*" * 200}
    report = {"SchemaVersion": 2, "Results": [{"Target": "*" * 300, "Vulnerabilities": [hit]}]}
    policies = {"policies": [{"policy": "*" * 150, **{f"{'*' * 150}{i}": i for i in range(200)}}]}
    head = {"environment": "big", "resources": [], "findings": [], "cost": {"hourly_usd": 1}}
    body = render_comment(head, scans={f"{i}": report for i in range(60)}, backtest=policies)
    assert len(body) < 65_536
    assert body.splitlines()[0] == marker("big")
    assert "may be deployed" in body
    assert "| US dollars per hour | — | 1.00 | — |" in body
    assert "artifacts" in body


def test_values_of_secrets_are_never_shown() -> None:
    body = render(CASES["changed"])
    assert "old value" not in body
    assert "new value" not in body
    change = {"stack": "s", "type": "t", "name": "n", "inputs": {"adminPassword": "one", "env": [{"apiToken": "two"}]}}
    after = change | {"inputs": {"adminPassword": "three", "env": [{"apiToken": "four"}]}}
    (found,) = resource_changes({"resources": [change]}, {"resources": [after]})
    assert found.details == ("adminPassword: changed", "env[0].apiToken: changed")


@pytest.mark.parametrize("value", [{"name": "DB_PASSWORD", "value": "hunter2"}, "redis://u:hunter2@host", {"api_key": "hunter2"}])
def test_a_secret_that_no_key_calls_one_is_not_shown_either(value: Any) -> None:
    row = {"stack": "s", "type": "t", "name": "n"}
    text = json.dumps([value]).replace("hunter2", "hunter3")
    (found,) = resource_changes(
        {"resources": [row | {"inputs": {"a": [value]}}]}, {"resources": [row | {"inputs": {"a": json.loads(text)}}]}
    )
    assert found.details
    assert "hunter" not in str(found.details)


def test_the_same_name_in_both_slots_stacks_is_two_resources() -> None:
    changes = resource_changes(read("base"), read("head"))
    assert [(change.kind, change.stack, change.name) for change in changes] == [
        ("added", "prod", "l4"),
        ("removed", "prod", "spot"),
        ("changed", "prod", "keys"),
        ("changed", "prod-blue", "runtime"),
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resources": None}, "resources"),
        ({"resources": [1]}, "resources"),
        ({"findings": [1]}, "findings"),
        ({"cost": [1]}, "cost"),
        ({"cost": {"hourly_usd": "a lot"}}, "cost.hourly_usd"),
        ({"cost": {"hourly_usd": float("nan")}}, "cost.hourly_usd"),
    ],
)
def test_a_plan_of_another_shape_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        render_comment(read("head") | changes)


def test_plan_comment_is_the_command_for_people_and_workflows(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["plan", "kubernetes", "--comment", "--scan", str(HERE / "inputs" / "scan.json")]) in (0, 3)
    body = capfd.readouterr().out
    assert body.startswith(marker("kubernetes"))
    assert "CVE" in body
    broken = tmp_path / "base.json"
    broken.write_text("{")
    assert run(["plan", "kubernetes", "--comment", "--base", str(broken)]) == 2
    assert "base.json" in capfd.readouterr().err
