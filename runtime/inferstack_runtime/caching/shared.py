"""The server that replicas share (Redis protocol), kept at arm's length: a call that fails or is late is a miss, never an error.

After a failure the server is left alone for a second, so that a dead or slow one costs at most one wait per second and process.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.caching.identity import Identity, Token
from inferstack_runtime.metrics import Metrics

T = TypeVar("T")
Use = Literal["limits", "cache"]
_REST_SECONDS = 1.0
_REFUSED = ("AuthenticationError", "NoPermissionError", "AuthenticationWrongNumberOfArgsError")
_log = logging.getLogger(__name__)


class StoreDown(Exception):
    """The shared server did not answer in time."""


class SharedStore:
    """Calls of one server with a time limit and rest after failures. Belongs to the event loop."""

    def __init__(
        self,
        url: str,
        timeout_seconds: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        identity: Identity | None = None,
    ) -> None:
        """`identity`: whose token is the password, instead of one in `url`."""
        self._url = url
        self._timeout = timeout_seconds
        self._metrics = metrics
        self._clock = clock
        self._identity = identity
        self._client: Any = None
        self._rest_until = 0.0
        self._up: bool | None = None
        self._opening: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the last call was answered."""
        return bool(self._up)

    async def open(self) -> None:
        """Import the client and connect, away from the event loop and before the first request needs it."""
        if self._client is None:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
            await asyncio.shield(self._opening)

    async def _open(self) -> None:
        client = await asyncio.to_thread(_make_client, self._url, self._identity)
        self._client = client
        try:
            if self._identity is not None:
                await self._identity.renew()
            async with asyncio.timeout(2):
                await client.ping()
            self._note(True)
        except Exception as error:
            self._note(False, error)

    async def keep_signed_in(self) -> None:
        """For ever, where the password is a token: renew it in time and sign in again on the connections that are open."""
        if self._identity is not None:
            await self.open()
            await self._identity.keep(self._sign_in)

    async def _sign_in(self, token: Token) -> None:
        pool = self._client.connection_pool
        try:
            async with asyncio.timeout(2):
                await pool.re_auth_callback(token)
        except Exception:  # a connection that is dead or was refused: the next call makes new ones with the new token
            await pool.disconnect(inuse_connections=False)

    async def call(self, use: Use, work: Callable[[Any], Awaitable[T]]) -> T:
        """The result of `work(client)`; raises StoreDown when it fails, takes too long, or the server rests."""
        if self._client is None or self._clock() < self._rest_until:
            raise StoreDown
        try:
            async with asyncio.timeout(self._timeout):
                result = await work(self._client)
        except Exception as error:
            self._metrics[catalogue.SHARED_ERRORS].labels(use).inc()
            self._note(False, error)
            if self._identity is not None and type(error).__name__ in _REFUSED:
                self._identity.doubt()
            self._rest_until = self._clock() + _REST_SECONDS
            raise StoreDown from error
        if not self._up:
            self._note(True)
        return result

    async def subscribe(self, channel: str, receive: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand every message of a channel to `receive`; returns or raises when the connection ends."""
        if self._client is None:
            raise StoreDown
        async with self._client.pubsub() as subscription:
            await subscription.subscribe(channel)
            async for message in subscription.listen():
                if message["type"] == "message":
                    try:
                        await receive(message["data"])
                    except StoreDown:
                        continue

    def _note(self, up: bool, error: BaseException | None = None) -> None:
        if up != self._up:
            if up:
                _log.info("the shared cache server answers")
            else:
                _log.warning("the shared cache server does not answer", extra={"fields": {"error": type(error).__name__}})
        self._up = up
        self._metrics[catalogue.SHARED_UP].set(up)

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def _make_client(url: str, identity: Identity | None) -> Any:
    import redis.asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # The limit on time stands around each call; retries would only hide a dead server from it.
    given: dict[str, Any] = {} if identity is None else {"credential_provider": identity}
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_connect_timeout=1.0, max_connections=64, **given)
