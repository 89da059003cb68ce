"""Each gate lets the good pass and stops the bad with one clear sentence."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from inferstack.delivery import gates
from inferstack.delivery.__main__ import main
from inferstack.delivery.audit import read_audit
from inferstack.delivery.gates import Refused
from inferstack.delivery.plans import BadInput
from inferstack.environment import Waiver

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "a1" * 32
IMAGE = f"ghcr.io/owner/runtime@{DIGEST}"


def one_sentence(text: str) -> bool:
    return "\n" not in text.strip() and text.strip().endswith(".")


def signature(digest: str = DIGEST) -> list[dict[str, Any]]:
    return [{"critical": {"image": {"docker-manifest-digest": digest}, "type": "cosign container image signature"}, "optional": None}]


def waiver(rule: str = "CVE-2026-0001", expires: str = "2026-12-31") -> Waiver:
    return Waiver(rule=rule, reason="not reachable from outside", owner="serving", expires=expires)


def test_a_digest_passes() -> None:
    assert gates.by_digest(IMAGE) == DIGEST
    assert gates.by_digest(f"localhost:5000/a/b:v1@{DIGEST}") == DIGEST


@pytest.mark.parametrize(
    "reference",
    [
        "ghcr.io/owner/runtime:latest",
        "ghcr.io/owner/runtime",
        "",
        DIGEST,
        f"{IMAGE}0",
        IMAGE[:-1],
        f"{IMAGE}\n",
        f"-x@{DIGEST}",
        f"a b@{DIGEST}",
    ],
)
def test_a_tag_or_anything_else_stops(reference: str) -> None:
    with pytest.raises(Refused, match="digest") as stopped:
        gates.by_digest(reference)
    assert one_sentence(str(stopped.value))


def test_the_placeholder_digest_stops() -> None:
    with pytest.raises(Refused, match="placeholder"):
        gates.by_digest("a@sha256:" + "0" * 64)


def test_a_signature_of_this_digest_passes() -> None:
    gates.signed(IMAGE, signature(), 0)


@pytest.mark.parametrize(
    ("verification", "status", "says"),
    [
        (None, 1, "has no signature .*no matching signatures"),
        (signature(), 1, "has no signature"),
        ([], 0, "has no signature"),
        (signature("sha256:" + "b" * 64), 0, "is of sha256:bbb"),
        (signature() + signature("sha256:" + "b" * 64), 0, "sign and deploy the same digest"),
    ],
)
def test_an_unsigned_image_stops(verification: Any, status: int, says: str) -> None:
    with pytest.raises(Refused, match=says) as stopped:
        gates.signed(IMAGE, verification, status, "no matching signatures")
    assert one_sentence(str(stopped.value))


def test_a_signature_of_another_shape_is_no_pass() -> None:
    with pytest.raises(BadInput):
        gates.signed(IMAGE, [{"critical": {}}], 0)
    with pytest.raises(BadInput):
        gates.signed(IMAGE, {"critical": {}}, 0)


def finding(severity: str) -> dict[str, str]:
    return {"rule": "gpu-taint", "severity": severity, "path": "prod/l4", "message": "The pool has no taint."}


def test_a_plan_stops_at_errors_only() -> None:
    gates.plan_clean({"environment": "prod", "findings": [finding("warning"), finding("info")]})
    with pytest.raises(Refused, match=r"1 finding .*gpu-taint at prod/l4"):
        gates.plan_clean({"environment": "prod", "findings": [finding("info"), finding("error")]})
    with pytest.raises(Refused):
        gates.plan_clean({"environment": "prod", "findings": [finding("a severity nobody knows")]})


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        ({"hourly_usd": 1.0, "during_promotion_hourly_usd": 2.01}, "2.01 US dollars per hour, above the ceiling of 2.00"),
        ({"hourly_usd": 2.5, "during_promotion_hourly_usd": 2.0}, "2.50"),
        ({"hourly_usd": None, "during_promotion_hourly_usd": 1.0}, "no price"),
        (None, "no price"),
    ],
)
def test_a_stack_above_its_ceiling_or_without_price_stops(cost: Any, says: str) -> None:
    gates.within_cost({"environment": "pr-1", "cost": {"hourly_usd": 1.0, "during_promotion_hourly_usd": 2.0}}, 2)
    with pytest.raises(Refused, match=says) as stopped:
        gates.within_cost({"environment": "pr-1", "cost": cost}, 2)
    assert one_sentence(str(stopped.value))


def test_a_waiver_holds_through_its_last_day_and_no_longer() -> None:
    gates.waivers_valid("prod", [waiver()], date(2026, 12, 31))
    with pytest.raises(Refused, match=r"CVE-2026-0001 in environment prod expired on 2026-12-31: .*\(serving\)") as stopped:
        gates.waivers_valid("prod", [waiver(expires="2027-01-31"), waiver()], date(2027, 1, 1))
    assert one_sentence(str(stopped.value))


def test_a_scan_stops_at_what_is_serious_and_can_be_mended() -> None:
    report = json.loads((Path(__file__).parent / "inputs" / "scan.json").read_text())
    with pytest.raises(Refused, match=r"1 hit.*CVE-2026-0001 .*mended by 3.5.4-1"):
        gates.scan_clean("image", report)
    gates.scan_clean("image", report, [waiver()], date(2026, 12, 31))
    with pytest.raises(Refused):
        gates.scan_clean("image", report, [waiver()], date(2027, 1, 1))
    with pytest.raises(Refused):
        gates.scan_clean("image", report, [waiver(rule="CVE-2026-0002")], date(2026, 12, 31))
    secret = {
        "SchemaVersion": 2,
        "Results": [{"Target": "a.py", "Secrets": [{"RuleID": "github-pat", "Severity": "CRITICAL", "StartLine": 3}]}],
    }
    with pytest.raises(Refused, match="github-pat"):
        gates.scan_clean("repository", secret)
    with pytest.raises(BadInput):
        gates.scan_clean("image", {"runs": []})


def test_what_could_not_be_audited_is_no_pass(tmp_path: Path) -> None:
    vulnerable = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
    assert read_audit({"dependencies": [vulnerable, {"name": "b", "skip_reason": "not found"}]}) == (["a 1: PYSEC-1, mended by 2"], ["b"])
    file = tmp_path / "report.json"
    for rows, code in (([vulnerable], 3), ([{"name": "b", "skip_reason": "x"}], 5), ([{"name": "c", "version": "1", "vulns": []}], 0)):
        file.write_text(json.dumps({"dependencies": rows}))
        assert main(["audit", str(file)]) == code


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["digest", IMAGE], 0, ""),
        (["digest", "runtime:latest"], 3, "refused: image 'runtime:latest' is not named by its digest"),
        (["plan", "nowhere.json"], 2, "nowhere.json"),
        (["waivers", "nowhere"], 2, "nowhere"),
        (["waivers", "kubernetes"], 0, ""),
        (["stack", "12; rm -rf /"], 2, "expected its number"),
        (["health", "local", "http://127.0.0.1:1"], 2, "INFERSTACK_KEY"),
    ],
)
def test_the_command_says_it_in_one_line(arguments: list[str], code: int, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "inferstack.delivery", *arguments], cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
