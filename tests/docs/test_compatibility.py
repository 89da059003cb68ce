import ast
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


def named():
    """Every test that a row names."""
    found = {test for entries in TABLE.values() for _, _, how in entries for test in re.findall(r"`(test_\w+)`", how)}
    return found | {test for tests in proofs().values() for test in tests}


def written():
    """(file, function, its module) of every test that is written."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_text())
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield path, node, module


def test_tests_that_rows_name_exist():
    assert named()
    assert named() <= {node.name for _, node, _ in written()}


def unexplained(node, module):
    """Skips of a test, or of its whole module, that are for good or do not say why."""
    values = [one.value for one in module.body if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "pytestmark"]
    marks = [*node.decorator_list, *(mark for value in values for mark in (value.elts if isinstance(value, ast.List) else [value]))]
    for mark in marks:
        text = ast.unparse(mark)
        if text.startswith(("pytest.mark.skip", "pytest.mark.xfail")):
            reason = isinstance(mark, ast.Call) and any(keyword.arg == "reason" for keyword in mark.keywords)
            if not (text.startswith("pytest.mark.skipif(") and reason):
                yield text
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("pytest.skip", "pytest.xfail") and not (call.args or call.keywords):
            yield ast.unparse(call)


def test_no_test_that_a_row_names_is_skipped_without_a_word():
    """A part that this machine lacks is a reason; a switch is one where the reason names it."""
    for path, node, module in written():
        if node.name in named():
            assert not list(unexplained(node, module)), f"{path.relative_to(ROOT)}: {node.name}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@pytest.mark.skip\ndef test_a(): ...", 1),
        ("@pytest.mark.skip(reason='later')\ndef test_a(): ...", 1),
        ("@pytest.mark.skipif(x)\ndef test_a(): ...", 1),
        ("@pytest.mark.xfail(reason='x')\ndef test_a(): ...", 1),
        ("pytestmark = [pytest.mark.parts, pytest.mark.skipif(x)]\ndef test_a(): ...", 1),
        ("def test_a():\n    pytest.skip()", 1),
        ("@pytest.mark.skipif(x, reason='no x')\ndef test_a():\n    pytest.skip('no y')", 0),
        ("pytestmark = pytest.mark.parts\ndef test_a(): ...", 0),
    ],
)
def test_a_skip_without_a_word_is_found(text, found):
    module = ast.parse(text)
    assert len(list(unexplained(module.body[-1], module))) == found
