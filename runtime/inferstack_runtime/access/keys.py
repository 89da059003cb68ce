"""API keys: an HMAC of each key in a file, re-read when the file changes.

The file is `{"secret": HEX, "keys": [{"id", "hash", "tenant", "tier", "scopes"}]}` with `hash` the hex HMAC-SHA256(secret, key).
The key itself is known to its owner only and appears in no log, metric or error.
"""

import hashlib
import hmac
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

_log = logging.getLogger(__name__)
SCOPES = frozenset({"inference", "admin"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: `tenant` owns caches and limits, `tier` names the limits."""

    tenant: str
    tier: str
    scopes: frozenset[str]
    key_id: str


@dataclass(frozen=True)
class KeySet:
    """The keys of one version of the file."""

    secret: bytes
    callers: Mapping[str, Caller]

    def find(self, key: bytes) -> Caller | None:
        return self.callers.get(hmac.digest(self.secret, key, "sha256").hex())


class InvalidKeys(ValueError):
    """The key file cannot be used; the message says where and why, without a key or hash in it."""


def hash_key(secret: str, key: str) -> str:
    """The `hash` of a key, as the file holds it. `secret` is hex."""
    return hmac.new(bytes.fromhex(secret), key.encode(), hashlib.sha256).hexdigest()


def parse_keys(text: bytes, tiers: Collection[str], source: str = "keys") -> KeySet:
    """Read the file's content; raises InvalidKeys."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidKeys(f"{source}: expected one JSON object") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("keys"), list):
        raise InvalidKeys(f"{source}: expected an object with `secret` and `keys`")
    try:
        secret = bytes.fromhex(raw["secret"])
    except (KeyError, TypeError, ValueError):
        raise InvalidKeys(f"{source}: secret: expected hex text") from None
    if len(secret) < 16:
        raise InvalidKeys(f"{source}: secret: expected at least 16 bytes (32 hex digits)")
    callers: dict[str, Caller] = {}
    for index, entry in enumerate(raw["keys"]):
        digest, caller = _caller(entry, tiers, f"{source}: keys.{index}")
        if digest in callers:
            raise InvalidKeys(f"{source}: keys.{index}.hash: the same key stands twice")
        callers[digest] = caller
    return KeySet(secret, callers)


def is_name(value: object) -> TypeGuard[str]:
    """Whether a value can name a tenant: text that every store can hold (no NUL, no half of a surrogate pair)."""
    return isinstance(value, str) and value != "" and value.isprintable()


def _caller(entry: object, tiers: Collection[str], where: str) -> tuple[str, Caller]:
    if not isinstance(entry, dict):
        raise InvalidKeys(f"{where}: expected an object")
    digest = entry.get("hash")
    if not isinstance(digest, str) or len(digest) != 64 or any(letter not in "0123456789abcdef" for letter in digest):
        raise InvalidKeys(f"{where}.hash: expected 64 lower-case hex digits")
    for name in ("id", "tenant"):
        if not is_name(entry.get(name)):
            raise InvalidKeys(f"{where}.{name}: expected non-empty printable text")
    tier = entry.get("tier", "default")
    if tier not in tiers:
        raise InvalidKeys(f"{where}.tier: expected one of {', '.join(sorted(tiers))}")
    scopes = entry.get("scopes", ["inference"])
    if not isinstance(scopes, list) or not scopes or any(scope not in SCOPES for scope in scopes):
        raise InvalidKeys(f"{where}.scopes: expected some of {', '.join(sorted(SCOPES))}")
    return digest, Caller(entry["tenant"], tier, frozenset(scopes), entry["id"])


class KeyFile:
    """The keys of a file. `refresh` re-reads it when it changed.

    A file that becomes unreadable means no key is valid (access fails closed); one that becomes invalid, for instance half written,
    leaves the last valid keys in force until the next change, and says so in the log.
    """

    def __init__(self, path: Path, tiers: Collection[str]) -> None:
        self._path = path
        self._tiers = tiers
        self._version: tuple[int, int, int] | None = None
        self.keys = KeySet(b"", {})
        self._version = self._stamp()
        self.keys = parse_keys(path.read_bytes(), tiers, str(path))

    def refresh(self) -> bool:
        """Re-read the file if it changed; whether the keys are others now."""
        try:
            version = self._stamp()
            if version == self._version:
                return False
            text = self._path.read_bytes()
        except OSError as error:
            changed = bool(self.keys.callers)
            if changed:
                _log.error(
                    "key file cannot be read, every key is refused", extra={"fields": {"path": str(self._path), "error": error.strerror}}
                )
            self.keys, self._version = KeySet(b"", {}), None
            return changed
        self._version = version
        try:
            self.keys = parse_keys(text, self._tiers, str(self._path))
        except InvalidKeys as error:
            _log.error("key file is invalid, the last valid keys stay in force", extra={"fields": {"error": str(error)}})
            return False
        return True

    def _stamp(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
