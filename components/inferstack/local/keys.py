"""API keys of an environment: made once, stored hashed for the runtime and plain for the commands of this user.

Promotions have a key of their own, of another tenant and of the tier that allows most: their requests take nothing of the users' limits,
and wait for nobody's.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from inferstack.environment import Tier
from inferstack.local.layout import Layout, read_json, write_json
from inferstack.promotion.whole import write_whole

TENANT = "local"
PROMOTION = "promotion"


def ensure_keys(layout: Layout, tiers: Mapping[str, Tier]) -> None:
    """Make the keys (inference; admin; promotion) where they are missing; existing ones stay as they are."""
    known = read_json(layout.keys) or {"secret": secrets.token_hex(32), "keys": []}
    usual, largest = next(iter(tiers)), max(tiers, key=lambda name: (tiers[name].requests_per_minute, tiers[name].tokens_per_minute))
    plain = {
        "local": (layout.api_key, TENANT, usual, ["inference"]),
        "local-admin": (layout.admin_key, TENANT, usual, ["inference", "admin"]),
        "local-promotion": (layout.promotion_key, PROMOTION, largest, ["inference"]),
    }
    entries = {entry["id"]: entry for entry in known["keys"]}
    for name, (file, tenant, tier, scopes) in plain.items():
        if name in entries and entries[name]["tier"] not in tiers:  # the environment no longer has it
            entries[name] = entries[name] | {"tier": tier}
        if (
            name in entries
            and file.is_file()
            and entries[name]["hash"] == hash_key(known["secret"], file.read_text(encoding="utf-8").strip())
        ):
            continue
        key = f"sk-{secrets.token_urlsafe(32)}"
        write_whole(file, f"{key}\n")
        entries[name] = {"id": name, "hash": hash_key(known["secret"], key), "tenant": tenant, "tier": tier, "scopes": scopes}
    if list(entries.values()) != known["keys"] or not layout.keys.is_file():
        write_json(layout.keys, {"secret": known["secret"], "keys": list(entries.values())})


def hash_key(secret: str, key: str) -> str:
    """Hex HMAC-SHA256 of `key` under the server secret (hex), as the runtime compares it."""
    return hmac.new(bytes.fromhex(secret), key.encode(), hashlib.sha256).hexdigest()


def read_key(layout: Layout, *, admin: bool = False) -> str:
    """The plain key; raises FileNotFoundError when the environment has never been up."""
    return (layout.admin_key if admin else layout.api_key).read_text(encoding="utf-8").strip()


def read_promotion_key(layout: Layout) -> str:
    """The key of promotion's own requests; the users' where an environment was brought up before there was one. Raises like read_key."""
    if layout.promotion_key.is_file():
        return layout.promotion_key.read_text(encoding="utf-8").strip()
    return read_key(layout)
