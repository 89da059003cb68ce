"""API keys for a test: the secret that the runtime reads, and the key that a client sends."""

import hashlib
import hmac
import json

KEY = "sk-cluster-test"
ADMIN_KEY = "sk-cluster-test-admin"
_SECRET = "00112233445566778899aabbccddeeff"


def secret(name: str, namespace: str) -> dict[str, object]:
    """The Secret with `keys.json`, as `access.keys_secret` of an environment names it."""
    keys = [_entry("client", KEY, ["inference"]), _entry("admin", ADMIN_KEY, ["inference", "admin"])]
    content = json.dumps({"secret": _SECRET, "keys": keys})
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": {"keys.json": content}}


def _entry(name: str, key: str, scopes: list[str]) -> dict[str, object]:
    digest = hmac.new(bytes.fromhex(_SECRET), key.encode(), hashlib.sha256).hexdigest()
    return {"id": name, "hash": digest, "tenant": "tests", "tier": "premium", "scopes": scopes}
