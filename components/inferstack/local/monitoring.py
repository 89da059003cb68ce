"""Prometheus and Alertmanager of a local environment, where they are installed: what they scrape, evaluate and keep."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferstack.environment import Environment, SlotName
from inferstack.local.layout import Layout, write_json

PROMETHEUS = "prometheus"
ALERTMANAGER = "alertmanager"
KEEPER = "keeper"
"""The part that serves the promotion's state and shrinks the previous slot after its rollback window."""
SCRAPE_SECONDS = 5
RETENTION = "2d"
_BINARIES = {PROMETHEUS: ("prometheus",), ALERTMANAGER: ("alertmanager", "prometheus-alertmanager")}
_PACKAGES = {PROMETHEUS: "prometheus", ALERTMANAGER: "prometheus-alertmanager"}


@dataclass(frozen=True)
class Monitor:
    """One of the two programs: its path, or None when it is not installed."""

    name: str
    program: str | None

    @property
    def advice(self) -> str:
        return f"not installed; Debian and Ubuntu: apt-get install {_PACKAGES[self.name]}"


def find() -> dict[str, Monitor]:
    """Both programs as this machine has them, Alertmanager first: Prometheus sends to it."""
    return {
        name: Monitor(name, next((found for binary in _BINARIES[name] if (found := shutil.which(binary))), None))
        for name in (ALERTMANAGER, PROMETHEUS)
    }


def config(name: str, layout: Layout, ports: Mapping[str, int], slot_metrics: Mapping[str, int], gateway_admin: int) -> dict[str, Any]:
    """The configuration file of the program `name` (JSON, which is YAML)."""
    return _alertmanager() if name == ALERTMANAGER else _prometheus(layout, ports, slot_metrics, gateway_admin)


def rules(environment: Environment) -> dict[str, Any]:
    """The rule file: what a cluster of this environment would get, with its thresholds and prices. Raises UnknownThreshold."""
    from inferstack.cluster.monitoring import rule_groups  # planning and prices: most commands do without

    return {"groups": rule_groups(environment)}


def write_rules(layout: Layout, environment: Environment) -> bool:
    """Write the rule file; True where it is another one than before."""
    before = layout.rules.read_text(encoding="utf-8") if layout.rules.exists() else None
    write_json(layout.rules, rules(environment))
    return before != layout.rules.read_text(encoding="utf-8")


def arguments(name: str, layout: Layout, file: Path, port: int) -> list[str]:
    """The command line of the program `name` after its path."""
    data = layout.directory / name
    listen = f"--web.listen-address=127.0.0.1:{port}"
    if name == ALERTMANAGER:
        return [f"--config.file={file}", f"--storage.path={data}", listen, "--cluster.listen-address=", "--log.level=warn"]
    retention = f"--storage.tsdb.retention.time={RETENTION}"
    return [f"--config.file={file}", f"--storage.tsdb.path={data}", retention, listen, "--log.level=warn"]


def _prometheus(layout: Layout, ports: Mapping[str, int], slot_metrics: Mapping[str, int], gateway_admin: int) -> dict[str, Any]:
    slots = [
        {"targets": [f"127.0.0.1:{slot_metrics[slot]}"], "labels": {"slot": str(slot), "environment": layout.name}} for slot in SlotName
    ]
    gateway = {"targets": [f"127.0.0.1:{gateway_admin}"]}
    alertmanager = ports.get(ALERTMANAGER)
    keeper = {"targets": [f"127.0.0.1:{ports[KEEPER]}"]}
    alerting = {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]} if alertmanager else {}
    return {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "evaluation_interval": f"{SCRAPE_SECONDS}s",
            "external_labels": {"environment": layout.name},
        },
        "scrape_configs": [
            {"job_name": "inferstack", "static_configs": slots},
            {"job_name": "promotion", "static_configs": [keeper]},
            {"job_name": "gateway", "metrics_path": "/stats/prometheus", "static_configs": [gateway]},
        ],
        "rule_files": [str(layout.rules)],
        "alerting": alerting,
    }


def _alertmanager() -> dict[str, Any]:
    """Alerts are kept and shown, and hold each other back as in a cluster; nobody is called from one machine."""
    from inferstack.cluster.monitoring_config import inhibitions

    route = {"receiver": "here", "group_by": ["alertname", "slot"]}
    return {"route": route, "receivers": [{"name": "here"}], "inhibit_rules": inhibitions()}
