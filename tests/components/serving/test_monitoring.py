"""Monitoring for each backend: valid objects, the same rules, and configurations that the programs themselves accept."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.cluster.monitoring import azure_rule_groups, monitoring_objects, rule_groups
from inferstack_dashboards import ALERTS, UnknownThreshold
from tests.components.kubernetes import environment, validate

BUNDLED = {
    "monitoring": {"backend": "bundled", "receivers": {"page": "pager-url", "ticket": "ticket-url"}, "thresholds": {"ErrorsHigh": 0.07}}
}


def objects(backend: str, **more: Any) -> dict[str, dict[str, Any]]:
    return monitoring_objects(environment({"monitoring": {"backend": backend, **more}}), "prod")


def test_without_a_backend_there_is_nothing() -> None:
    assert objects("none") == {}


def test_every_bundled_object_is_valid_and_every_pod_is_restricted() -> None:
    found = monitoring_objects(environment(BUNDLED), "prod")
    for manifest in found.values():
        validate(manifest)
    for server in ("prometheus", "alertmanager", "grafana"):
        pod = found[f"{server}_stateful_set"]["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "@sha256:" in container["image"]
        assert found[f"{server}_stateful_set"]["spec"]["volumeClaimTemplates"]
        volumes = {volume["name"] for volume in pod["volumes"]} | {"data"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert sum(len(text) for text in found["grafana_boards"]["data"].values()) < 1_000_000


def test_grafana_has_a_password_from_a_secret_and_no_anonymous_access() -> None:
    container = objects("bundled")["grafana_stateful_set"]["spec"]["template"]["spec"]["containers"][0]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["GF_AUTH_ANONYMOUS_ENABLED"]["value"] == "false"
    assert variables["GF_SECURITY_ADMIN_PASSWORD__FILE"]["value"] == "/etc/password/admin-password"
    assert "valueFrom" not in json.dumps(container["env"])


@pytest.mark.parts
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_prometheus_accepts_its_configuration_and_rules(tmp_path: Path) -> None:
    data = monitoring_objects(environment(BUNDLED), "prod")["prometheus_config"]["data"]
    config = json.loads(data["prometheus.yml"])
    for scrape in config["scrape_configs"]:  # Debian builds Prometheus without the discovery of Kubernetes
        assert scrape.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["inferstack"]}}]
    (tmp_path / "rules.yml").write_text(data["rules.yml"])
    (tmp_path / "prometheus.yml").write_text(json.dumps(config | {"rule_files": [str(tmp_path / "rules.yml")]}))
    done = subprocess.run(["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parts
@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed (Debian package prometheus-alertmanager)")
def test_alertmanager_accepts_its_configuration_and_routes_by_severity(tmp_path: Path) -> None:
    text = monitoring_objects(environment(BUNDLED), "prod")["alertmanager_config"]["data"]["alertmanager.yml"]
    file = tmp_path / "alertmanager.yml"
    file.write_text(re.sub(r'"url_file": "[^"]*"', '"url": "http://127.0.0.1:1/"', text))  # files: from Alertmanager 0.26 on
    checked = subprocess.run(["amtool", "check-config", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for severity, receiver in (("page", "page"), ("ticket", "ticket"), ("none", "none")):
        command = ["amtool", "config", "routes", "test", f"--config.file={file}", f"severity={severity}"]
        assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == receiver


@pytest.mark.parametrize(("backend", "kind"), [("operator", "PrometheusRule"), ("gmp", "Rules")])
def test_operators_get_the_same_rules_and_a_board_each(backend: str, kind: str) -> None:
    found = objects(backend)
    rules = found["rules"]
    assert rules["kind"] == kind
    plain = [{key: value for key, value in group.items() if key != "interval"} for group in rules["spec"]["groups"]]
    assert plain == rule_groups(environment({"monitoring": {"backend": backend}}))
    assert sum(role.startswith("board_") for role in found) == 7
    assert "blue" not in yaml.safe_dump(found["scrape"])


@pytest.mark.parametrize("backend", ["operator", "gmp", "azure"])
def test_every_scrape_carries_slot_and_environment(backend: str) -> None:
    text = json.dumps(objects(backend)["scrape"])
    assert "slot" in text
    assert '"replacement": "prod"' in text
    assert '"metrics"' in text


def test_azure_gets_at_most_twenty_rules_a_group_and_iso_durations() -> None:
    groups = azure_rule_groups(environment({"monitoring": {"backend": "azure"}}), "/workspace", {"page": "/actions/page"})
    rules = [rule for group in groups for rule in group["rules"]]
    assert max(len(group["rules"]) for group in groups) <= 20
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert set(alerts) == {alert.name for alert in ALERTS}
    assert alerts["ErrorsHigh"]["for"] == "PT5M"
    assert alerts["ErrorsHigh"]["actions"] == [{"actionGroupId": "/actions/page"}]
    assert "actions" not in alerts["QueueLong"]


def test_thresholds_of_the_environment_reach_the_rules_and_unknown_ones_are_refused() -> None:
    text = objects("bundled", thresholds={"ErrorsHigh": 0.07})["prometheus_config"]["data"]["rules.yml"]
    expr = next(rule["expr"] for group in json.loads(text)["groups"] for rule in group["rules"] if rule.get("alert") == "ErrorsHigh")
    assert expr.endswith("> 0.07")
    with pytest.raises(UnknownThreshold, match="ErrorsHigh"):
        objects("bundled", thresholds={"ErorsHigh": 0.07})


def test_prices_of_the_environment_reach_the_rules() -> None:
    names = {
        rule.get("record"): rule["expr"] for group in rule_groups(environment({"budget": {"hourly_usd": 12}})) for rule in group["rules"]
    }
    assert names["inferstack:budget_hourly_usd"] == "vector(12.0)"
    assert "inferstack:replica_hourly_usd" not in names
