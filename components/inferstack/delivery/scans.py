"""What Trivy's JSON report says, in the few facts that a gate and a comment need. Pure.

The report's shape: https://trivy.dev/latest/docs/configuration/reporting/ (`Results[].Vulnerabilities|Misconfigurations|Secrets`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferstack.delivery.plans import BadInput, objects

SEVERITIES = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Hit:
    """One finding of a scan: `where` is a package with its version or a place; `fixed` the version that mends it, if any."""

    kind: str
    identifier: str
    severity: str
    target: str
    where: str
    fixed: str


def read_scan(report: Mapping[str, Any]) -> list[Hit]:
    """Hits of one report, worst first, each once. Raises BadInput when it is no report of Trivy's."""
    if "SchemaVersion" not in report:
        raise BadInput("scan: expected a JSON report of Trivy (`SchemaVersion`, `Results`)")
    hits: set[Hit] = set()
    for result in objects(report.get("Results"), "scan: `Results`"):
        target = str(result.get("Target", ""))
        for row in objects(result.get("Vulnerabilities"), "scan: `Vulnerabilities`"):
            where = f"{row.get('PkgName')} {row.get('InstalledVersion')}"
            hits.add(
                Hit("vulnerability", str(row.get("VulnerabilityID")), _severity(row), target, where, str(row.get("FixedVersion") or ""))
            )
        for row in objects(result.get("Misconfigurations"), "scan: `Misconfigurations`"):
            if row.get("Status", "FAIL") == "FAIL":
                hits.add(Hit("misconfiguration", str(row.get("ID")), _severity(row), target, str(row.get("Title", "")), ""))
        for row in objects(result.get("Secrets"), "scan: `Secrets`"):
            hits.add(Hit("secret", str(row.get("RuleID")), _severity(row), target, f"line {row.get('StartLine')}", ""))
    return sorted(hits, key=lambda hit: (SEVERITIES.index(hit.severity), hit.kind, hit.identifier, hit.target, hit.where))


def stops(hit: Hit) -> bool:
    """Whether a hit stops the pipeline: serious, and something can be done about it (a fixed version, a setting, a secret to take out)."""
    return hit.severity in ("CRITICAL", "HIGH") and (hit.kind != "vulnerability" or bool(hit.fixed))


def _severity(row: Mapping[str, Any]) -> str:
    severity = str(row.get("Severity", "UNKNOWN"))
    return severity if severity in SEVERITIES else "UNKNOWN"
