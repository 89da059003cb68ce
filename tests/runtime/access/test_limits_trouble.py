"""The server that counts limits in trouble of every kind: requests are answered, the estimate says so, and it is used again by itself."""

import asyncio
import contextlib

import pytest
import redis
from conftest import running

from inferstack_runtime.access.keys import Caller

pytestmark = pytest.mark.parts
ASK = {"model": "fake", "prompt": "x", "max_tokens": 2, "temperature": 1}
TIERS = {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}


class Trouble:
    """`begin` and `end` it, over a connection of its own that stays allowed."""

    def __init__(self, server, proxy):
        redis.Redis.from_url(server.url).acl_setuser(
            "admin", enabled=True, passwords=["+root"], keys=["*"], channels=["*"], categories=["+@all"]
        )
        self.admin, self.proxy = redis.Redis.from_url(server.url, username="admin", password="root"), proxy

    def full(self, begins):
        self.admin.config_set("maxmemory-policy", "noeviction")
        self.admin.config_set("maxmemory", "1mb" if begins else "0")

    def paused(self, begins):
        if begins:
            self.admin.execute_command("CLIENT", "PAUSE", "1500", "ALL")

    def read_only(self, begins):
        self.admin.execute_command("REPLICAOF", *(("127.0.0.1", "1") if begins else ("NO", "ONE")))

    def revoked(self, begins):
        self.admin.execute_command("ACL", "SETUSER", "default", "-@all" if begins else "+@all")

    def trickling(self, begins):
        self.proxy.pause = 0.05 if begins else 0.0

    def cut(self, begins):
        self.proxy.refuse = begins
        if begins:
            self.proxy.drop()


class Proxy:
    """Stands before the server: `pause` seconds between two bytes of its answers, or every connection is dropped."""

    def __init__(self, port):
        self._port, self.pause, self.refuse, self._writers, self._tasks = port, 0.0, False, set(), set()

    async def start(self):
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def _carry(self, reader, writer):
        if self.refuse:
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, inner_writer}
        self._tasks |= {asyncio.create_task(self._copy(reader, inner_writer, 0)), asyncio.create_task(self._copy(inner_reader, writer, 1))}

    async def _copy(self, source, sink, slow):
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                for piece in [data[at : at + 1] for at in range(len(data))] if slow and self.pause else [data]:
                    sink.write(piece)
                    await sink.drain()
                    await asyncio.sleep(self.pause if slow else 0)
        sink.close()

    def drop(self):
        for writer in self._writers:
            writer.transport.abort()

    async def close(self):
        self.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.close()


@pytest.mark.parametrize("kind", ["full", "paused", "read_only", "revoked", "trickling", "cut"])
async def test_requests_are_answered_and_the_server_is_used_again_without_a_restart(valkey, kind):
    proxy = Proxy(valkey.port)
    await proxy.start()
    trouble = Trouble(valkey, proxy)
    try:
        async with running(access={"tiers": TIERS}, cache={"url": proxy.url, "timeout_seconds": 0.2}) as run:
            await run.service.store.open()
            value = run.service.metrics.value

            async def ask():
                return (await run.post("/v1/completions", ASK)).status_code

            assert await ask() == 200
            assert value("inferstack_limit_fallback_total") == 0
            getattr(trouble, kind)(True)
            begun = asyncio.get_running_loop().time()
            assert await asyncio.gather(*(ask() for _ in range(20))) == [200] * 20
            assert asyncio.get_running_loop().time() - begun < 5
            assert value("inferstack_limit_fallback_total") >= 1, "and the metric says so"
            assert value("inferstack_shared_store_up") == 0
            assert value("inferstack_shared_store_errors_total", use="limits") >= 1
            getattr(trouble, kind)(False)
            async with asyncio.timeout(10):
                while value("inferstack_shared_store_up") != 1:
                    await asyncio.sleep(0.2)
                    assert await ask() == 200
            fallbacks = value("inferstack_limit_fallback_total")
            assert await ask() == 200
            assert value("inferstack_limit_fallback_total") == fallbacks
            admission = await run.service.limiter.admit(Caller("other", "default", frozenset(), "k"), 1)
            assert admission.shared
    finally:
        trouble.admin.close()
        await proxy.close()
