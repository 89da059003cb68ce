import json
import re
from pathlib import Path

import pytest

from inferstack_runtime.api.routes import ROUTES
from inferstack_runtime.autoscaler.process import OPERATIONS
from inferstack_runtime.metrics import CATALOGUE

ROOT = Path(__file__).parents[2]
NAMES = json.loads((Path(__file__).parent / "source_names.json").read_text())


PROOFS = "## What each part is proven by"
PARTS = """
/v1/completions|/v1/chat/completions|/v1/embeddings|/v1/models|/v1/batch|/v1/files|/v1/batches|/v1/inference
/chat/stream|/chat/performance
/api/v1/models/load|/api/v1/scaling/register|/api/v1/scaling/manual|/api/v1/monitoring/metrics
/health|/livez|/readyz|/metrics
continuous batching|quantization|KV cache|response cache|weight cache|lazy load|CPU fallback|more than one GPU
routing|tiers|keys|signed tokens
GPU safety|response checks|leaving|inferstack bench|load profile|targets
"""


def table():
    """(source, group, name) to (verdict, how)."""
    rows, source = {}, ""
    for line in (ROOT / "docs" / "compatibility.md").read_text().splitlines():
        if line == PROOFS:
            break
        if line.startswith("## "):
            source = line[3]
        elif line.startswith("| ") and not line.startswith("| group"):
            group, name, verdict, how = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            rows.setdefault((source, name.strip("`").replace("\\|", "|")), []).append((group, verdict, how))
    return rows


TABLE = table()


@pytest.mark.parametrize("source", sorted(NAMES))
def test_no_name_of_a_source_is_missing(source):
    assert [name for name in NAMES[source] if (source, name) not in TABLE] == []


def test_every_row_says_what_becomes_of_the_name():
    for (source, name), entries in TABLE.items():
        for _, verdict, how in entries:
            assert verdict in ("accepted", "mapped", "refused"), (source, name)
            assert len(how) >= 5, (source, name)


def test_endpoints_that_are_accepted_exist():
    routes = {f"{route.method} {route.path}" for route in ROUTES} | {f"{method} {path}" for path, method in OPERATIONS.items()}
    for (_, name), entries in TABLE.items():
        if entries[0][0] == "Endpoints" and entries[0][1] == "accepted" and re.match(r"(GET|POST|PUT|DELETE) ", name):
            assert name in routes


def test_metrics_that_names_are_mapped_to_exist():
    known = {sample for metric in CATALOGUE for sample in (metric.name, *metric.samples)}
    for entries in TABLE.values():
        for group, _, how in entries:
            if group == "Metrics":
                assert set(re.findall(r"`(inferstack_\w+|process_\w+)`", how)) <= known
    aliases = {alias for metric in CATALOGUE for alias in metric.aliases}
    for source in "ACE":
        for name in NAMES[source]:
            if name.startswith(("llm_re", "llm_i", "llm_t", "zig_ai", "throughput_rps")):
                assert name.removesuffix("_bucket") in aliases


def proofs():
    """Part to the tests that its row names."""
    lines = (ROOT / "docs" / "compatibility.md").read_text().partition(PROOFS)[2].splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| ") and not line.startswith("| part")]
    return {row[0].replace("`", ""): re.findall(r"`(test_\w+)`", row[2]) for row in rows}


def test_every_part_of_the_service_is_proven_by_tests():
    rows = proofs()
    assert all(tests for tests in rows.values())
    parts = re.split(r"[|\n]", PARTS.strip())
    assert [part for part in parts if not any(part in row for row in rows)] == []


def test_tests_that_rows_name_exist():
    named = {test for entries in TABLE.values() for _, _, how in entries for test in re.findall(r"`(test_\w+)`", how)}
    named |= {test for tests in proofs().values() for test in tests}
    written = {name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert named
    assert named <= written
