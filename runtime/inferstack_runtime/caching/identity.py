"""Access to a managed cache by the identity of this machine or pod: a token of the cloud is the password, and is renewed before it ends.

Google: Memorystore for Valkey with IAM authentication, user `default`, token of the metadata server
  (https://cloud.google.com/memorystore/docs/valkey/about-iam-auth).
Azure: Managed Redis with Microsoft Entra, user is the identity's object id, token for https://redis.azure.com by workload identity or
  from the instance metadata service (https://learn.microsoft.com/azure/redis/entra-for-authentication).
"""

import asyncio
import base64
import binascii
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.metrics import Metrics

Cloud = Literal["google", "azure"]
_log = logging.getLogger(__name__)
_SECONDS = 5
_RETRY_SECONDS = 5.0
_LEAST_SECONDS = 1.0
_SHARE_OF_LIFE = 0.75
"""A token is renewed when this share of its life is over, so that a quarter is left for a token service that is away."""
_AZURE_RESOURCE = "https://redis.azure.com"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class NoToken(Exception):
    """The cloud gave no token; the message says where it was asked and why."""


@dataclass(frozen=True, slots=True)
class Token:
    """A user and its password for `seconds` from when it was asked for."""

    user: str
    value: str
    seconds: float

    # What the client library asks a token when it signs in again on a connection that is open.

    def try_get(self, claim: str) -> str:
        return self.user

    def get_value(self) -> str:
        return self.value


def fetch_token(cloud: Cloud, environment: Mapping[str, str] = os.environ) -> Token:
    """A fresh token for this identity; blocks. Raises NoToken."""
    return _google(environment) if cloud == "google" else _azure(environment)


def _google(environment: Mapping[str, str]) -> Token:
    host = environment.get("GCE_METADATA_HOST", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
    answer = _ask(url, {"metadata-flavor": "Google"})
    return Token("default", *_token(answer, url))


def _azure(environment: Mapping[str, str]) -> Token:
    client, file = environment.get("AZURE_CLIENT_ID"), environment.get("AZURE_FEDERATED_TOKEN_FILE")
    if file and client and environment.get("AZURE_TENANT_ID"):
        authority = environment.get("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com").rstrip("/")
        url = f"{authority}/{environment['AZURE_TENANT_ID']}/oauth2/v2.0/token"
        try:
            assertion = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise NoToken(f"AZURE_FEDERATED_TOKEN_FILE {file} cannot be read: {error.strerror}") from None
        form = {
            "grant_type": "client_credentials",
            "client_id": client,
            "client_assertion_type": _ASSERTION,
            "client_assertion": assertion,
            "scope": f"{_AZURE_RESOURCE}/.default",
        }
        answer = _ask(url, {}, urllib.parse.urlencode(form).encode())
    else:
        host = environment.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://169.254.169.254").rstrip("/")
        query = {"api-version": "2018-02-01", "resource": _AZURE_RESOURCE, **({"client_id": client} if client else {})}
        url = f"{host}/metadata/identity/oauth2/token"
        answer = _ask(f"{url}?{urllib.parse.urlencode(query)}", {"metadata": "true"})
    value, seconds = _token(answer, url)
    return Token(_object_id(value, url), value, seconds)


def _ask(url: str, headers: dict[str, str], form: bytes | None = None) -> dict[str, Any]:
    where = url.partition("?")[0]
    try:
        request = urllib.request.Request(url, form, headers)  # noqa: S310 (addresses of the clouds, or of the operator's environment)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            found = json.loads(answer.read(1 << 20))
    except urllib.error.HTTPError as error:
        with error:
            raise NoToken(f"{where}: HTTP {error.code}; does this machine or pod have an identity?") from None
    except (OSError, HTTPException, ValueError) as error:
        raise NoToken(f"{where}: {error}") from None
    return found if isinstance(found, dict) else {}


def _token(answer: dict[str, Any], url: str) -> tuple[str, float]:
    value = answer.get("access_token")
    try:
        seconds = float(answer["expires_in"])
    except (KeyError, TypeError, ValueError):
        seconds = 0.0
    if not isinstance(value, str) or not value or not seconds > 0:
        raise NoToken(f"{url}: expected access_token and expires_in, got {', '.join(map(str, answer)) or 'nothing'}")
    return value, seconds


def _object_id(token: str, url: str) -> str:
    """The claim `oid`. The token comes from who signed it, over TLS or the machine's own link: only the cache has to verify it."""
    parts = token.split(".")
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))["oid"]
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        raise NoToken(f"{url}: the token names no object id (`oid`)") from None
    return str(found)


class Identity:
    """The credentials of every connection to the cache: the newest token. Belongs to the event loop."""

    def __init__(self, cloud: Cloud, metrics: Metrics, fetch: Callable[[Cloud], Token] = fetch_token) -> None:
        self._cloud = cloud
        self._metrics = metrics
        self._fetch = fetch
        self._token: Token | None = None
        self._ends = 0.0
        self._doubted = asyncio.Event()

    async def get_credentials_async(self) -> tuple[str, str]:
        """User and password of a connection that is being made; the client library calls it."""
        if self._token is None:
            raise ConnectionError("no token of the cloud yet")
        return self._token.user, self._token.value

    def doubt(self) -> None:
        """The server refused the token: ask for another one soon, not only when its time is over."""
        self._doubted.set()

    async def renew(self) -> Token:
        """Ask for a token and use it from now on; raises NoToken."""
        asked = time.monotonic()
        try:
            self._token = token = await asyncio.to_thread(self._fetch, self._cloud)
        except NoToken:
            self._metrics[catalogue.CACHE_TOKENS].labels("failed").inc()
            raise
        self._ends = asked + token.seconds
        self._metrics[catalogue.CACHE_TOKENS].labels("ok").inc()
        return token

    async def keep(self, use: Callable[[Token], Awaitable[None]]) -> None:
        """For ever: renew the token in time, and hand each new one to `use`, which signs in again on the open connections."""
        while True:
            await self._until_due()
            try:
                await use(await self.renew())
            except NoToken as error:
                _log.error("no token for the shared cache server", extra={"fields": {"error": str(error), "left": round(self._left())}})
                await asyncio.sleep(_RETRY_SECONDS)

    def _left(self) -> float:
        return max(0.0, self._ends - time.monotonic())

    async def _until_due(self) -> None:
        if self._token is None:
            return
        due = max(_LEAST_SECONDS, self._left() - self._token.seconds * (1 - _SHARE_OF_LIFE))
        self._doubted.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(due):
                await self._doubted.wait()
                await asyncio.sleep(_LEAST_SECONDS)
