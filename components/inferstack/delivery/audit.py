"""What pip-audit's JSON says: known vulnerabilities, and packages that could not be looked up, which is no pass. Pure."""

from collections.abc import Mapping
from typing import Any

from inferstack.delivery.plans import BadInput, objects


def read_audit(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(one line per vulnerability, names that were not audited) of `pip-audit --format json`. Raises BadInput."""
    if "dependencies" not in report:
        raise BadInput("audit: expected the JSON of pip-audit (`dependencies`)")
    found, skipped = [], []
    for row in objects(report["dependencies"], "audit: `dependencies`"):
        if "skip_reason" in row:
            skipped.append(str(row.get("name")))
        for hit in objects(row.get("vulns"), "audit: `vulns`"):
            mended = ", ".join(map(str, hit.get("fix_versions") or ())) or "no version yet"
            found.append(f"{row.get('name')} {row.get('version')}: {hit.get('id')}, mended by {mended}")
    return sorted(set(found)), sorted(set(skipped))
