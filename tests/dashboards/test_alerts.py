"""Each alert fires, does not fire, and a wrong threshold is noticed: with samples, by promtool."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inferstack_dashboards import ALERTS, Settings, UnknownThreshold
from inferstack_dashboards.output import alert_groups, recording_groups
from tests.dashboards.cases import CASES, Series, on, ready, requests
from tests.dashboards.promql import ROOT

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")


def rule_file(alert: str | None, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """One alert (None: all) with the recording rules that any alert reads."""
    recording = [group for group in recording_groups(Settings()) if group["name"] in ("inferstack-cost", "inferstack-objectives")]
    alerts = alert_groups(Settings(thresholds=thresholds))[0]
    alerts["rules"] = [rule for rule in alerts["rules"] if alert is None or rule["alert"] == alert]
    needed = [group for group in recording if any(rule["record"] in json.dumps(alerts) for rule in group["rules"])]
    for group in needed:
        group["rules"] = [rule for rule in group["rules"] if rule["record"] in json.dumps(alerts)]
    return {"groups": [*needed, alerts]}


def check(folder: Path, looks: list[tuple[str, str, Series, int, bool, Mapping[str, float]]]) -> dict[str, bool]:
    """Run one promtool over many (id, alert, series, minute, should fire, thresholds); {id: whether it was as expected}."""
    names = []
    for identifier, alert, series, minute, firing, thresholds in looks:
        (folder / f"{identifier}.rules.json").write_text(json.dumps(rule_file(alert, thresholds)))
        count = f'(count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0) or vector(0)'
        test = {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{"expr": count, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": int(firing)}]}],
        }
        names.append(f"{identifier}.test.json")
        (folder / names[-1]).write_text(
            json.dumps({"rule_files": [f"{identifier}.rules.json"], "evaluation_interval": "1m", "tests": [test]})
        )
    done = subprocess.run(
        ["promtool", "test", "rules", *names], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    parts = re.split(r"Unit Testing:\s+(\S+)\.test\.json", done.stdout)
    text = dict(zip(parts[1::2], parts[2::2], strict=True))
    failed = {identifier for identifier, *_ in looks if "FAILED" in text.get(identifier, "FAILED: never run")}
    assert (done.returncode != 0) == bool(failed), done.stdout
    return {identifier: identifier not in failed for identifier, *_ in looks}


@pytest.mark.parts
@needs_promtool
def test_every_alert_fires_and_is_silent_on_the_other_side_of_its_threshold(tmp_path: Path) -> None:
    looks = []
    for case in CASES:
        looks.append((f"{case.alert}-fires", case.alert, case.fires, case.at, True, {}))
        for index, series in enumerate((case.quiet, *case.also_quiet) if case.quiet else ()):
            looks.append((f"{case.alert}-quiet-{index}", case.alert, series, case.at, False, {}))
    wrong = [identifier for identifier, right in check(tmp_path, looks).items() if not right]
    assert not wrong


@pytest.mark.parts
@needs_promtool
def test_a_mutated_threshold_is_noticed(tmp_path: Path) -> None:
    looks = []
    for case in CASES:
        for mutant in case.mutants:
            looks.append((f"{case.alert}@{mutant:g}-fires", case.alert, case.fires, case.at, True, {case.alert: mutant}))
            looks.append((f"{case.alert}@{mutant:g}-quiet", case.alert, case.quiet, case.at, False, {case.alert: mutant}))
    right = check(tmp_path, looks)
    names = [f"{case.alert}@{mutant:g}" for case in CASES for mutant in case.mutants]
    assert not [name for name in names if right[f"{name}-fires"] and right[f"{name}-quiet"]]


def test_every_alert_has_a_case_and_every_threshold_a_mutant_on_each_side() -> None:
    cases = {case.alert: case for case in CASES}
    assert set(cases) == {alert.name for alert in ALERTS}
    for alert in ALERTS:
        if alert.threshold is not None:
            assert min(cases[alert.name].mutants) < alert.threshold < max(cases[alert.name].mutants)


QUIET_NIGHT: Series = {
    **requests(0, 0, 200),
    **ready("blue", 2),
    **ready("green", 1),
    on("blue", "inferstack_access_keys"): "3x200",
    on("blue", "inferstack_shared_store_up"): "1x200",
    on("blue", "inferstack_waiting_sequences", model="m"): "0x200",
    on("blue", "inferstack_steps_total", model="m"): "900x200",
    on("blue", "inferstack_kv_cache_used_ratio", model="m"): "0x200",
    on("blue", "process_start_time_seconds"): "1x200",
    'up{job="inferstack",instance="blue-0"}': "1x200",
}
PROBED_NIGHT: Series = {
    **{name: values for name, values in QUIET_NIGHT.items() if "green" not in name},
    on("blue", "inferstack_requests_total", code="200"): "0+12x200",
    # probes every few seconds; one replica of blue loads for 40 minutes, green is stopped after 100
    **{on(slot, "inferstack_requests_total", instance=f"{slot}-0", route=route, code="200"): values for slot, values in (
        ("blue", "0+18x200"), ("green", "0+18x100 stale")) for route in ("/readyz", "/livez")},
    on("blue", "inferstack_requests_total", instance="blue-9", route="/readyz", code="503"): "0+18x40 720+0x160",
    on("green", "inferstack_ready"): "1x100 stale",
}  # fmt: skip
CLEAN_PROMOTION: Series = QUIET_NIGHT | {
    on("blue", "inferstack_requests_total", code="200"): "0+600x60 36000+300x10 39000+0x130",
    on("green", "inferstack_requests_total", code="200"): "0+0x60 0+300x10 3000+600x130",
    on("blue", "inferstack_time_to_first_token_seconds_bucket", le="5.0"): "0+600x200",
    on("blue", "inferstack_time_to_first_token_seconds_count"): "0+600x200",
}


@needs_promtool
@pytest.mark.parametrize(
    "series", [QUIET_NIGHT, PROBED_NIGHT, CLEAN_PROMOTION], ids=["an idle night", "a night of probes", "a clean promotion"]
)
@pytest.mark.slow
def test_nothing_pages_and_no_ticket_opens(series: Series, tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(json.dumps(rule_file(None, {})))
    firing = 'count(ALERTS{severity=~"page|ticket",alertstate="firing"}) or vector(0)'
    looks = [{"expr": firing, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": 0}]} for minute in range(1, 180)]
    test = {"interval": "1m", "input_series": [{"series": k, "values": v} for k, v in series.items()], "promql_expr_test": looks}
    (tmp_path / "test.json").write_text(json.dumps({"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", "test.json"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_probes_are_no_traffic_and_no_failures(tmp_path: Path) -> None:
    """An idle slot that is only probed serves nobody, so that no promotion seems to run and hold back tickets."""
    looks = [(f"{alert}-{minute}", alert, PROBED_NIGHT, minute, False, {}) for alert, minute in (
        ("PromotionRunning", 60), ("PromotionStuck", 99), ("SlotWithoutEndpoints", 103), ("ErrorsHigh", 30), ("ErrorBudgetBurnFast", 40),
    )]  # fmt: skip
    assert not [identifier for identifier, right in check(tmp_path, looks).items() if not right]


@needs_promtool
@pytest.mark.parametrize(("values", "why"), [("_x50 31x50", "first seen with a code"), ("0x20 31x30 79x50", "another code than the last")])
def test_an_xid_pages_though_it_does_not_come_after_a_zero(values: str, why: str, tmp_path: Path) -> None:
    series = {'DCGM_FI_DEV_XID_ERRORS{gpu="0",Hostname="node-1"}': values}
    assert check(tmp_path, [("new", "GpuXidError", series, 55, True, {})]) == {"new": True}, why


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_severity_summary_and_a_runbook_with_first_commands(alert: Any) -> None:
    rule = next(rule for rule in alert_groups(Settings())[0]["rules"] if rule["alert"] == alert.name)
    assert rule["labels"] == {"severity": alert.severity}
    assert rule["annotations"]["summary"]
    page = ROOT / "docs" / "runbooks" / rule["annotations"]["runbook_url"].rpartition("/")[2]
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {alert.name}\n")
    assert "## First commands" in text
    assert "```sh" in text
    assert alert.name in (page.parent / "README.md").read_text(encoding="utf-8")


def test_no_runbook_is_left_of_an_alert_that_went() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {alert.name for alert in ALERTS}


def test_an_environment_changes_thresholds_by_the_name_of_the_alert() -> None:
    rules = {rule["alert"]: rule["expr"] for rule in alert_groups(Settings(thresholds={"GpuTemperatureHigh": 78.5}))[0]["rules"]}
    assert rules["GpuTemperatureHigh"] == "DCGM_FI_DEV_GPU_TEMP > 78.5"
    with pytest.raises(UnknownThreshold, match="GpuTemperatureHigh"):
        alert_groups(Settings(thresholds={"GpuTemperaturHigh": 78.5}))
    with pytest.raises(UnknownThreshold):
        alert_groups(Settings(thresholds={"Watchdog": 1}))
