import json
import logging

import pytest
from conftest import SECRET, running, write_keys

from inferstack_runtime.access.keys import InvalidKeys, KeyFile, hash_key, parse_keys

ASK = {"model": "fake", "prompt": "x", "max_tokens": 2}


@pytest.fixture
async def guarded(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={}, root={"scopes": ["inference", "admin"]})
    async with running(access={"keys_file": str(file)}) as run:
        run.file = file
        yield run


async def test_only_known_keys_are_served(guarded):
    assert (await guarded.post("/v1/completions", ASK)).status_code == 401
    assert (await guarded.post("/v1/completions", ASK, authorization="Bearer nobody")).status_code == 401
    assert (await guarded.post("/v1/completions", ASK, authorization="Basic alice")).status_code == 401
    assert (await guarded.post("/v1/completions", ASK, authorization="Bearer alice")).status_code == 200


async def test_the_refusal_says_invalid_token(guarded):
    answer = await guarded.post("/v1/completions", ASK, authorization="Bearer nobody")
    assert answer.json()["error"]["message"] == "Invalid token"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_health_needs_no_key(guarded):
    for path in ("/livez", "/readyz", "/health"):
        assert (await guarded.client.get(path)).status_code == 200
    assert (await guarded.client.get("/v1/models")).status_code == 401


async def test_keys_are_reloaded_without_a_restart(guarded):
    write_keys(guarded.file, carol={})
    guarded.service.authenticator.refresh()
    assert (await guarded.post("/v1/completions", ASK, authorization="Bearer carol")).status_code == 200
    assert (await guarded.post("/v1/completions", ASK, authorization="Bearer alice")).status_code == 401


async def test_a_key_file_that_is_gone_lets_nobody_in(guarded):
    guarded.file.unlink()
    guarded.service.authenticator.refresh()
    assert (await guarded.post("/v1/completions", ASK, authorization="Bearer alice")).status_code == 401


async def test_a_half_written_key_file_changes_nothing(guarded):
    guarded.file.write_text(guarded.file.read_text()[:50])
    guarded.service.authenticator.refresh()
    assert (await guarded.post("/v1/completions", ASK, authorization="Bearer alice")).status_code == 200


async def test_keys_appear_in_no_log_metric_or_error(guarded, caplog):
    with caplog.at_level(logging.DEBUG):
        refused = await guarded.post("/v1/completions", ASK, authorization="Bearer secret-unknown-key")
        await guarded.post("/v1/completions", ASK, authorization="Bearer alice")
        await guarded.post("/v1/completions", {"bad": 1}, authorization="Bearer alice")
    seen = caplog.text + repr([getattr(record, "fields", None) for record in caplog.records])
    seen += guarded.service.metrics.render().decode() + refused.text + str(refused.headers)
    assert "secret-unknown-key" not in seen
    assert "Bearer alice" not in seen
    assert hash_key(SECRET, "alice") not in seen


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"hash": "xyz"}, "keys.0.hash"),
        ({"tenant": ""}, "keys.0.tenant"),
        ({"tenant": "a\0"}, "keys.0.tenant"),
        ({"tenant": "\ud800"}, "keys.0.tenant"),
        ({"tier": "gold"}, "keys.0.tier"),
        ({"scopes": ["root"]}, "keys.0.scopes"),
        ({"id": None}, "keys.0.id"),
    ],
)
def test_an_invalid_file_says_where_without_showing_a_hash(change, where):
    digest = hash_key(SECRET, "k")
    entry = {"id": "k1", "hash": digest, "tenant": "t", "tier": "default", "scopes": ["inference"]} | change
    with pytest.raises(InvalidKeys, match=where) as raised:
        parse_keys(json.dumps({"secret": SECRET, "keys": [entry]}).encode(), {"default"})
    assert digest not in str(raised.value)


def test_the_file_is_read_only_when_it_changed(tmp_path):
    file = write_keys(tmp_path / "keys.json", a={})
    keys = KeyFile(file, {"default"})
    assert not keys.refresh()
    write_keys(file, b={}, c={})
    assert keys.refresh()
    assert keys.keys.find(b"b") is not None
