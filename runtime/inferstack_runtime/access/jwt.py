"""Bearer tokens of an identity provider: RS256 and ES256 by its key set (JWKS), HS256 by a shared secret.

Which algorithm is allowed follows from the key, never from the token: a key set never verifies HS256, a secret never RS256. `exp` must
be there; `aud` and `iss` must be the configured ones. Keys rotate: an unknown key id makes the set be fetched again, at most every
ten seconds.
"""

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inferstack_runtime.access.keys import Caller, is_name
from inferstack_runtime.config import JwtConfig

_log = logging.getLogger(__name__)
_ALGORITHMS = ("RS256", "ES256")
_LEAST_SECONDS_BETWEEN_FETCHES = 10.0
_MOST_BYTES = 1024 * 1024
Fetch = Callable[[str], bytes]


class InvalidJwt(Exception):
    """The token does not prove anything."""


class JwtVerifier:
    """Turns a token into a caller."""

    def __init__(
        self, config: JwtConfig, tiers: Mapping[str, object], fetch: Fetch | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ValueError when neither or both of key set and secret are configured, or the secret is too short."""
        if (config.jwks_url is None) == (config.secret_file is None):
            raise ValueError("access.jwt: expected either jwks_url or secret_file")
        self._config = config
        self._tiers = tiers
        self._fetch = fetch or _fetch
        self._clock = clock
        self._keys: dict[str, Any] = {}
        self._fetched: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._secret: bytes | None = None
        if config.secret_file is not None:
            self._secret = Path(config.secret_file).read_bytes().strip()
            if len(self._secret) < 32:
                raise ValueError(f"access.jwt.secret_file: {config.secret_file}: expected at least 32 bytes")

    async def verify(self, token: bytes) -> Caller:
        """The caller that the token names; raises InvalidJwt."""
        import jwt

        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise InvalidJwt from None
        algorithm = header.get("alg")
        if self._secret is not None:
            key: Any = self._secret
            allowed = ["HS256"]
        else:
            key = await self._key(header.get("kid"), algorithm)
            allowed = [algorithm] if algorithm in _ALGORITHMS else []
        if algorithm not in allowed:
            raise InvalidJwt
        config = self._config
        options: Any = {"require": ["exp"], "verify_aud": config.audience is not None, "verify_iss": config.issuer is not None}
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=allowed,
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway_seconds,
                options=options,
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            raise InvalidJwt from None
        return self._caller(claims)

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        tenant = claims.get(self._config.tenant_claim)
        if not is_name(tenant):
            raise InvalidJwt
        tier = claims.get(self._config.tier_claim, "default")
        if not isinstance(tier, str) or tier not in self._tiers:
            tier = "default"
        # A token of the identity provider never has the admin scope, whatever it claims; its tenants are apart from those of keys.
        return Caller(f"jwt:{tenant}", tier, frozenset({"inference"}), "jwt")

    async def _key(self, kid: object, algorithm: object) -> Any:
        now = self._clock()
        stale = self._fetched is None or now - self._fetched > self._config.refresh_seconds
        unknown = self._find(kid, algorithm) is None
        recently = self._fetched is not None and now - self._fetched < _LEAST_SECONDS_BETWEEN_FETCHES
        if (stale or unknown) and not recently:
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.create_task(self._refresh())
            if unknown:
                await asyncio.shield(self._fetching)
        key = self._find(kid, algorithm)
        if key is None:
            raise InvalidJwt
        return key

    def _find(self, kid: object, algorithm: object) -> Any:
        only = next(iter(self._keys.values())) if len(self._keys) == 1 else None
        found = self._keys.get(kid) if isinstance(kid, str) else only
        return found.key if found is not None and found.algorithm_name == algorithm else None

    async def _refresh(self) -> None:
        self._fetched = self._clock()
        url = self._config.jwks_url or ""
        try:
            text = await asyncio.to_thread(self._fetch, url)
            self._keys = _parse_keys(text)
        except Exception as error:
            _log.error("the key set cannot be fetched; known keys stay in force", extra={"fields": {"url": url, "error": str(error)}})


def _parse_keys(text: bytes) -> dict[str, Any]:
    """Signature keys by id; keys of other kinds, and those that are none, are left out."""
    import jwt

    keys: dict[str, Any] = {}
    for position, entry in enumerate(json.loads(text)["keys"]):
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC") or entry.get("use", "sig") != "sig":
            continue
        algorithm = "RS256" if entry["kty"] == "RSA" else "ES256"
        if entry.get("alg", algorithm) != algorithm or (algorithm == "ES256" and entry.get("crv") != "P-256"):
            continue
        kid = entry.get("kid", f"(key {position})")
        try:
            keys[kid] = jwt.PyJWK(entry, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            _log.warning("a key of the key set cannot be used", extra={"fields": {"kid": str(kid)[:100], "error": str(error)}})
    return keys


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (the configuration allows http and https only)
        return bytes(answer.read(_MOST_BYTES))
