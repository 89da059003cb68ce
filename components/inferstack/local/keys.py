"""API keys of a local environment: made once, stored hashed for the runtime and plain for the commands of this user."""

import hashlib
import hmac
import secrets

from inferstack.local.layout import Layout, read_json, write_json, write_whole

TENANT = "local"


def ensure_keys(layout: Layout, tier: str) -> None:
    """Make the two keys (inference; admin) where they are missing; existing ones stay as they are."""
    known = read_json(layout.keys) or {"secret": secrets.token_hex(32), "keys": []}
    plain = {"local": layout.api_key, "local-admin": layout.admin_key}
    scopes = {"local": ["inference"], "local-admin": ["inference", "admin"]}
    entries = {entry["id"]: entry for entry in known["keys"]}
    for name, file in plain.items():
        if (
            name in entries
            and file.is_file()
            and entries[name]["hash"] == hash_key(known["secret"], file.read_text(encoding="utf-8").strip())
        ):
            continue
        key = f"sk-{secrets.token_urlsafe(32)}"
        write_whole(file, f"{key}\n")
        entries[name] = {"id": name, "hash": hash_key(known["secret"], key), "tenant": TENANT, "tier": tier, "scopes": scopes[name]}
    if list(entries.values()) != known["keys"] or not layout.keys.is_file():
        write_json(layout.keys, {"secret": known["secret"], "keys": list(entries.values())})


def hash_key(secret: str, key: str) -> str:
    """Hex HMAC-SHA256 of `key` under the server secret (hex), as the runtime compares it."""
    return hmac.new(bytes.fromhex(secret), key.encode(), hashlib.sha256).hexdigest()


def read_key(layout: Layout, *, admin: bool = False) -> str:
    """The plain key; raises FileNotFoundError when the environment has never been up."""
    return (layout.admin_key if admin else layout.api_key).read_text(encoding="utf-8").strip()
