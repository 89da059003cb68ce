"""The measurement of cache hits, against a small server in this process."""

import asyncio

import pytest

from inferstack.bench.cache import measure
from inferstack.bench.client import Target


class Caching:
    """Answers each body from its cache from the second time on; `every` nth answer fails."""

    def __init__(self, every: int = 0, chunked: bool = False) -> None:
        self.every, self.chunked = every, chunked
        self.seen: set[bytes] = set()
        self.count = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
                body = await reader.readexactly(length)
                self.count += 1
                status = b"503 No" if self.every and self.count % self.every == 0 else b"200 OK"
                found = b"hit" if body in self.seen else b"miss"
                self.seen.add(body)
                framing = b"transfer-encoding: chunked" if self.chunked else b"content-length: 5"
                writer.write(b"HTTP/1.1 " + status + b"\r\nx-cache: " + found + b"\r\n" + framing + b"\r\n\r\n")
                await asyncio.sleep(0)
                writer.write(b"5\r\nhello\r\n0\r\n\r\n" if self.chunked else b"hello")
                if b"connection: close" in head.lower():
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()


async def against(server, **options):
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        return await measure(Target("127.0.0.1", port, "m", "key"), connections=3, seconds=0.3, prompts=4, **options)


@pytest.mark.parametrize("chunked", [False, True])
async def test_hits_are_counted_with_their_latency_after_the_cache_was_filled(chunked):
    server = Caching(chunked=chunked)
    result = await against(server, stream=chunked)
    assert (result.misses, result.failures) == (0, 0)
    assert result.hits == server.count - 4
    assert result.hits_per_second == pytest.approx(result.hits / result.seconds)
    assert 0 < result.p50 <= result.p99 <= result.worst < result.seconds
    assert result.server_cpu_microseconds is None


async def test_answers_that_fail_are_no_hits():
    server = Caching(every=5)
    result = await against(server)
    assert result.failures == server.count // 5
    assert result.hits == server.count - 4 - result.failures


async def test_a_server_that_refuses_is_an_error():
    with pytest.raises(ConnectionError, match="503"):
        await against(Caching(every=1))
