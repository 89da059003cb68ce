"""The configuration that a slot's pods get is one that the runtime takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from inferstack_runtime.config import InvalidConfig, parse_config
from inferstack_runtime.lifecycle.models import Models
from tests.components.serving.test_manifests import VARIANTS, first, groups


@pytest.mark.parametrize("variant", [name for name, changes in VARIANTS.items() if changes.get("engine", {}).get("kind") is None])
def test_the_runtime_takes_what_a_slot_is_given(variant: str, tmp_path: Path) -> None:
    config = written(VARIANTS[variant])
    if "url_file" in config["cache"]:
        (tmp_path / "url").write_text("rediss://:key@cache.example:10000/0\n")
        config["cache"]["url_file"] = str(tmp_path / "url")
    parsed = parse_config(config)
    assert parsed.identity.slot == "blue"
    if "url_file" in config["cache"]:
        assert parsed.cache.url == "rediss://:key@cache.example:10000/0"


def test_a_cache_that_a_cloud_s_token_opens_and_a_device_are_passed_on(tmp_path: Path) -> None:
    changes = {
        "cache": {"backend": "external", "url_secret": "cache-url", "identity": "google"},
        "engine": {"kind": "transformers", "device": "cuda", "cpu_fallback": True},
    }
    config = written(changes)
    (tmp_path / "url").write_text("rediss://10.0.0.5:6379/0\n")
    config["cache"]["url_file"] = str(tmp_path / "url")
    parsed = parse_config(config)
    assert parsed.cache.identity == "google"
    assert (parsed.engine.device, parsed.engine.cpu_fallback) == ("cuda", True)


def test_either_tier_answers_a_request_that_names_no_tier() -> None:
    """A split by weight brings a request to either tier, whichever model it names."""
    configs = [json.loads(group.config_map["data"]["runtime.json"]) for group in groups(VARIANTS["tiers"])[1]]  # type: ignore[index]
    for config in configs:
        models = Models(parse_config(config).models, loader=None, metrics=None)  # type: ignore[arg-type]
        assert models.find("small") is models.find("large") is models.served[config["models"][0]["name"]]
        assert models.find("another") is None


def test_a_missing_address_is_named(tmp_path: Path) -> None:
    config = written(VARIANTS["external cache"])
    config["cache"]["url_file"] = str(tmp_path / "nothing")
    with pytest.raises(InvalidConfig, match="cannot be read"):
        parse_config(config)


def written(changes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(first(changes)[0].config_map["data"]["runtime.json"])  # type: ignore[index]
    return found


@pytest.mark.parametrize(("platform", "identity"), [("gke", "google"), ("aks", "azure")])
def test_a_managed_cache_that_an_identity_opens_is_one_that_the_runtime_takes(platform: str, identity: str, tmp_path: Path) -> None:
    cache = {"backend": "managed", "identity": identity, "engine": "valkey" if platform == "gke" else "redis"}
    config = written({"platform": platform, "region": "r", "cloud": {"project": "p"}, "cache": cache, "gateway": {"class_name": None}})
    (tmp_path / "url").write_text("rediss://10.0.0.5:6379/0?ssl_check_hostname=false\n")
    config["cache"]["url_file"] = str(tmp_path / "url")
    assert parse_config(config).cache.identity == identity
