"""Every operation that takes a body, with every kind of body that it does not take."""

import gzip
import json
import re

import pytest
from conftest import running, write_keys

from inferstack_runtime.api.openapi import document
from inferstack_runtime.api.routes import ROUTES

KINDS = {
    None: b'{"model": "fake", "prompt": "x"}',
    "": b"{}",
    "text/plain": b"hello",
    "application/xml": b"<a/>",
    "application/x-www-form-urlencoded": b"model=fake&prompt=x",
    "multipart/form-data": b"--b\r\n\r\n--b--",
    "multipart/form-data; boundary=": b"--",
    "multipart/form-data; boundary=b": b'--b\r\nContent-Disposition: form-data; name="file"; filename="\xff"\r\n\r\nx\r\n--b--\r\n',
    "multipart/mixed; boundary=b": b"--b--",
    "application/octet-stream": bytes(range(256)),
    "application/json; charset=utf-16": '{"model": "fake"}'.encode("utf-16"),
    "application/json; charset=\xff": b"{}",
    "application/json, text/plain": b"[]",
    "application/x-ndjson": b"{}\n{}\n",
    "application/grpc": b"\x00\x00\x00\x00\x00",
    "\t": b"null",
}
BODIES = [route for route in ROUTES if route.method in ("POST", "PUT", "DELETE")]


@pytest.mark.parametrize(
    "route",
    [pytest.param(route, marks=pytest.mark.slow if route.path.endswith("/profiling") else ()) for route in BODIES],  # it profiles 10 s
    ids=lambda route: f"{route.method} {route.path}",
)
async def test_a_body_of_another_kind_gets_a_status_that_the_document_names(route, tmp_path):
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]})
    tiers = {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}
    batches = {"url": f"sqlite:///{tmp_path}/b.sqlite"}
    named = {int(status) for status in document(ROUTES)["paths"][route.path][route.method.lower()]["responses"]}
    async with running(access={"keys_file": str(keys), "tiers": tiers}, batches=batches, lifecycle={"allow": []}) as run:
        path = re.sub(r"\{\w+\}", "none", route.path)
        for kind, body in KINDS.items():
            headers = {"authorization": "Bearer root"} | ({} if kind is None else {"content-type": kind.encode("latin-1")})
            answer = await run.client.request(route.method, path, content=body, headers=headers)
            assert answer.status_code in named, (kind, answer.text)
            assert answer.status_code < 500 or answer.status_code == 503, (kind, answer.text)


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip"])
async def test_a_compressed_body_is_refused_by_its_name(runtime, coding):
    body = gzip.compress(json.dumps({"model": "fake", "prompt": "x"}).encode())
    answer = await runtime.client.post("/v1/completions", content=body, headers={"content-encoding": coding})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert coding in answer.json()["error"]["message"]
    plain = await runtime.client.post("/v1/completions", json={"model": "fake", "prompt": "x"}, headers={"content-encoding": "identity"})
    assert plain.status_code == 200
