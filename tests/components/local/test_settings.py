"""What a slot, the cache and the keys are made from."""

import re
import socket
from pathlib import Path

import pytest

from inferstack.environment import Tier, parse_environment
from inferstack.environment.quantity import quantity
from inferstack.local import cache, ports
from inferstack.local.errors import LocalError
from inferstack.local.gateway import Ports
from inferstack.local.keys import ensure_keys, hash_key, read_key, read_promotion_key
from inferstack.local.layout import Layout, locked, read_json, write_json, write_whole
from inferstack.local.slots import runtime_config
from inferstack_runtime.config import parse_config as load_runtime_config

PORTS = Ports(8080, 9901, 6379, {"blue": 8001, "green": 8002}, {"blue": 9001, "green": 9002})


TIERS = {
    "default": Tier(requests_per_minute=60, tokens_per_minute=1000),
    "large": Tier(requests_per_minute=600, tokens_per_minute=10000),
    "long": Tier(requests_per_minute=600, tokens_per_minute=9000),
}


def environment(**keys):
    model = {"name": "tiny", "source": "file:///m", "quantization": "int8", "context": 128}
    return parse_environment({"platform": "local", "models": [model], "cache": {"backend": "none"}, **keys})


@pytest.mark.parametrize(
    ("text", "value"),
    [("512Mi", 512 * 2**20), ("1.5G", 1_500_000_000), ("7", 7), ("2k", 2000), ("1Ki", 1024), ("2500m", 2.5), ("1Ti", 2**40)],
)
def test_quantities_are_those_of_kubernetes(text, value):
    assert quantity(text) == value


def test_a_word_is_no_quantity():
    with pytest.raises(ValueError, match="'lots' is not a quantity"):
        quantity("lots")


def test_a_slot_is_configured_as_the_environment_says():
    made = environment(engine={"max_queue": 3, "kv_cache": "64Mi"}, drain={"pre_stop_seconds": 0, "seconds": 7})
    config = runtime_config(Layout(Path("/p"), "local"), made, "green", PORTS)
    assert config["listen"]["port"] == 8002
    assert config["metrics"]["port"] == 9002
    assert config["identity"] == {"environment": "local", "slot": "green", "generation": 1}
    assert config["batches"]["url"] == "sqlite:////p/.inferstack/local/slots/green-batches.sqlite", "of this project, not of its namesake"
    assert config["models"] == [{"name": "tiny", "source": "file:///m", "digest": None, "quantization": "int8", "context": 128}]
    assert config["engine"]["max_queue"] == 3
    assert config["engine"]["kv_cache_bytes"] == 64 * 2**20
    assert config["drain"] == {"seconds": 7}
    assert config["cache"]["url"] == "redis://:@127.0.0.1:6379/0"
    assert config["access"]["keys_file"] == "/p/.inferstack/local/keys.json"
    assert config["alertmanager_url"] is None
    load_runtime_config(config)


def test_keys_are_made_once_and_stored_hashed(tmp_path):
    layout = Layout(tmp_path, "local")
    layout.make()
    ensure_keys(layout, TIERS)
    key, stored = read_key(layout), read_json(layout.keys)
    assert re.fullmatch(r"sk-[\w-]{40,}", key)
    assert key not in layout.keys.read_text()
    assert stored["keys"][0] == {
        "id": "local",
        "hash": hash_key(stored["secret"], key),
        "tenant": "local",
        "tier": "default",
        "scopes": ["inference"],
    }
    assert "admin" in stored["keys"][1]["scopes"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in (layout.keys, layout.api_key, layout.admin_key))
    ensure_keys(layout, TIERS)
    assert read_key(layout) == key
    assert read_json(layout.keys) == stored


def test_a_lost_key_is_replaced_and_the_others_stay(tmp_path):
    layout = Layout(tmp_path, "local")
    layout.make()
    ensure_keys(layout, TIERS)
    admin, old = read_key(layout, admin=True), read_key(layout)
    layout.api_key.unlink()
    ensure_keys(layout, TIERS)
    assert read_key(layout) != old
    assert read_key(layout, admin=True) == admin
    assert len(read_json(layout.keys)["keys"]) == 3


def test_promotions_have_a_key_of_another_tenant_and_of_the_tier_that_allows_most(tmp_path):
    layout = Layout(tmp_path, "local")
    layout.make()
    write_whole(layout.api_key, "of-an-earlier-version\n")
    assert read_promotion_key(layout) == "of-an-earlier-version"
    ensure_keys(layout, TIERS)
    found = {entry["id"]: entry for entry in read_json(layout.keys)["keys"]}
    own = found["local-promotion"]
    assert (own["tier"], own["scopes"]) == ("large", ["inference"])
    assert own["tenant"] not in {found[name]["tenant"] for name in ("local", "local-admin")}
    assert own["hash"] == hash_key(read_json(layout.keys)["secret"], read_promotion_key(layout))
    assert layout.promotion_key.stat().st_mode & 0o077 == 0
    key = read_promotion_key(layout)
    ensure_keys(layout, {"default": TIERS["default"]})
    assert read_promotion_key(layout) == key
    assert {entry["tier"] for entry in read_json(layout.keys)["keys"]} == {"default"}, "a tier that is gone would be refused"


def test_keys_that_somebody_added_stay(tmp_path):
    layout = Layout(tmp_path, "local")
    layout.make()
    ensure_keys(layout, TIERS)
    stored = read_json(layout.keys)
    more = {"id": "mine", "hash": "00", "tenant": "me", "tier": "default", "scopes": []}
    write_json(layout.keys, {**stored, "keys": [*stored["keys"], more]})
    layout.api_key.unlink()
    ensure_keys(layout, TIERS)
    assert more in read_json(layout.keys)["keys"]


def test_the_cache_is_closed_by_a_password_that_the_address_carries(tmp_path):
    layout = Layout(tmp_path, "local")
    layout.make()
    path = Path(cache.write_config(layout, environment(cache={"backend": "process", "size": "64Mi"}).cache, 7000))
    password = re.search(r"^requirepass (\S+)$", path.read_text(), re.M)[1]
    assert cache.url(layout, 7000) == f"redis://:{password}@127.0.0.1:7000/0"
    assert cache.url(layout, None) is None
    assert "maxmemory 67108864" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_a_free_port_is_kept_and_a_taken_one_is_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert ports.pick(taken, set()) != taken
        with pytest.raises(LocalError, match=rf"port {taken} on 127.0.0.1 is taken by process \d+ \(\w+"):
            ports.require(taken, "gateway.port")
    chosen: set[int] = set()
    assert ports.pick(taken, chosen) == taken
    assert ports.pick(taken, chosen) not in (taken, None)
    assert ports.require(taken, "gateway.port") == taken


def test_two_commands_do_not_change_one_environment_together(tmp_path):
    layout = Layout(tmp_path, "local")
    with locked(layout), pytest.raises(LocalError, match="another command"), locked(layout, wait_seconds=0):
        pass
    with locked(layout, wait_seconds=0):
        pass


def test_a_state_file_that_cannot_be_read_says_why_and_whose_it_is(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(LocalError, match=r"state\.json cannot be read: Permission denied") as caught:
        read_json(tmp_path / "state.json")
    assert "run the command as that one" in caught.value.next_step


def test_a_damaged_state_file_says_which_and_what_to_do(tmp_path):
    path = tmp_path / "state.json"
    path.write_text("{")
    with pytest.raises(LocalError, match=r"state\.json is not JSON") as caught:
        read_json(path)
    assert caught.value.next_step == "delete the file"
