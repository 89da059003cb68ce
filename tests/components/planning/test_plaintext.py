"""Secrets in an environment's file are refused and never repeated."""

from typing import Any

import pytest

from inferstack.planning import check

from .fixtures import base, changed

NOISE = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"access": {"keys_secret": "sk-" + NOISE}}, "access.keys_secret"),
        ({"access": {"keys": ["sk-" + NOISE]}}, "access.keys[0]"),
        ({"access": {"api_key": "a word that is none of the forms"}}, "access.api_key"),
        ({"cache": {"backend": "external", "url_secret": f"rediss://:{NOISE}@cache:6380"}}, "cache.url_secret"),
        ({"cache": {"url": f"redis://user:{NOISE}@cache:6379"}}, "cache.url"),
        ({"cache": {"backend": "external", "url_secret": {"secure": NOISE}}}, "cache.url_secret"),
        ({"engine": {"arguments": ["--enforce-eager", f"--hf-token=hf_{NOISE}"]}}, "engine.arguments[1]"),
        ({"engine": {"image": f"robot:{NOISE}@ghcr.io/x/y@sha256:" + "1" * 64}}, "engine.image"),
        ({"gateway": {"tls_secret": "-----BEGIN " + f"PRIVATE KEY-----\n{NOISE}"}}, "gateway.tls_secret"),
        ({"monitoring": {"prometheus_url": f"https://scraper:{NOISE}@metrics.example"}}, "monitoring.prometheus_url"),
        ({"monitoring": {"receivers": {"page": f"https://hooks.slack.com/services/{NOISE}"}}}, "monitoring.receivers.page"),
        ({"models~": [{"name": "llama-3.1-8b-instruct", "source": f"hf://me:hf_{NOISE}@org/x"}]}, "models[0].source"),
        ({"secrets": {"name": "vault", "prefix": "ghp_" + NOISE}}, "secrets.prefix"),
    ],
)
def test_a_secret_in_plain_text_is_one_finding_that_does_not_repeat_it(change: dict[str, Any], path: str) -> None:
    found = [finding for finding in check(changed(base("gke"), change)) if finding.severity != "info"]
    assert [(finding.rule, finding.path) for finding in found] == [("environment", path)]
    assert "put it into a Secret" in found[0].fix
    assert NOISE not in str(found)
    assert "a word that" not in str(found)


@pytest.mark.parametrize("name", ["inferstack-keys", "sk-keys", "hf-token", "token-prod", "my-api-key"])
def test_the_name_of_a_secret_is_none(name: str) -> None:
    assert check(changed(base("gke"), {"access": {"keys_secret": name}})) == check(base("gke"))
