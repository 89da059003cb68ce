"""The runtime as a real process: start, drain, exit codes, disconnects."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

pytestmark = pytest.mark.parts

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True, "temperature": 0, "ignore_eos": True}


def scrape(url):
    lines = [line for line in httpx.get(url).text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def wait_for(condition, seconds=10):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("the condition did not become true in time")


def test_listens_before_the_model_is_loaded_and_is_ready_after(start):
    with start("--load-seconds", "1") as run:
        base = run.url
        early = httpx.get(f"{base}/readyz")
        assert early.status_code == 503
        assert early.json()["reason"].startswith("loading")
        assert httpx.get(f"{base}/livez").status_code == 200
        refused = httpx.post(f"{base}/v1/completions", json={"model": "fake", "prompt": "x"})
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        run.event("ready")
        assert httpx.get(f"{base}/readyz").json() == {
            "ready": True,
            "draining": False,
            "reason": "",
            "slot": "blue",
            "generation": 0,
            "model_digest": early.json()["model_digest"] or httpx.get(f"{base}/readyz").json()["model_digest"],
            "in_flight": 0,
        }


async def stream(client, base, body=CHAT):
    """Text of one stream and how it ended: `done`, `error` or `cut`."""
    text, end = "", "cut"
    async with client.stream("POST", f"{base}/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                end = "done"
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    end = event["error"]["code"]
                else:
                    text += event["choices"][0]["delta"].get("content") or ""
    return text, end


async def test_sigterm_during_50_streams_loses_none(start):
    with start("--step-seconds", "0.02", "--length", "100", engine={"max_sequences": 64}) as run:
        run.event("ready")
        base = run.url
        async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as client:
            tasks = [asyncio.create_task(stream(client, base, {**CHAT, "max_tokens": 60})) for _ in range(50)]
            await asyncio.to_thread(wait_for, lambda: scrape(run.metrics_url)["inferstack_open_streams"] == 50)
            run.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            ready = await client.get(f"{base}/readyz")
            assert ready.status_code == 503
            assert ready.json()["draining"] is True
            late = await client.post(f"{base}/v1/completions", json={"model": "fake", "prompt": "late", "max_tokens": 2})
            assert late.status_code == 200
            assert late.headers["connection"] == "close"
            results = await asyncio.gather(*tasks)
        assert {end for _, end in results} == {"done"}
        assert len({text for text, _ in results}) == 1
        assert await asyncio.to_thread(run.wait) == 0


@pytest.mark.parametrize("how", ["second signal", "deadline"])
async def test_streams_that_cannot_finish_end_with_an_error_event(start, how):
    seconds = 30 if how == "second signal" else 0.5
    with start("--step-seconds", "0.05", "--length", "2000", drain={"seconds": seconds}) as run:
        run.event("ready")
        async with httpx.AsyncClient(timeout=30) as client:
            tasks = [asyncio.create_task(stream(client, run.url)) for _ in range(3)]
            await asyncio.to_thread(wait_for, lambda: scrape(run.metrics_url)["inferstack_open_streams"] == 3)
            run.process.send_signal(signal.SIGTERM)
            if how == "second signal":
                await asyncio.sleep(0.2)
                run.process.send_signal(signal.SIGTERM)
            results = await asyncio.gather(*tasks)
        assert {end for _, end in results} == {"shutting_down"}
        assert await asyncio.to_thread(run.wait) == 0


async def test_a_client_that_leaves_frees_its_sequence(start):
    with start("--step-seconds", "0.02", "--length", "2000") as run:
        run.event("ready")
        async with httpx.AsyncClient(timeout=30) as client:
            async with client.stream("POST", f"{run.url}/v1/chat/completions", json=CHAT) as answer:
                await anext(answer.aiter_lines())
                assert scrape(run.metrics_url)['inferstack_running_sequences{model="fake"}'] == 1
            left = time.monotonic()
            wait_for(lambda: scrape(run.metrics_url)['inferstack_running_sequences{model="fake"}'] == 0)
            assert time.monotonic() - left < 1
            with pytest.raises(httpx.ReadTimeout):
                await client.post(f"{run.url}/v1/chat/completions", json={**CHAT, "stream": False}, timeout=0.3)
            wait_for(lambda: scrape(run.metrics_url)['inferstack_running_sequences{model="fake"}'] == 0)


async def test_heartbeats_keep_an_idle_stream_open(start):
    with start("--step-seconds", "1.0", http={"heartbeat_seconds": 0.2}) as run:
        run.event("ready", 30)
        async with (
            httpx.AsyncClient(timeout=30) as client,
            client.stream("POST", f"{run.url}/v1/chat/completions", json={**CHAT, "max_tokens": 2}) as answer,
        ):
            lines = [line async for line in answer.aiter_lines()]
        assert lines.count(": keep-alive") >= 3
        assert lines[-2] == "data: [DONE]"


def test_a_taken_port_is_exit_code_5(start, tmp_path):
    with start() as first:
        port = first.event("listening")["port"]
        (tmp_path / "second").mkdir()
        from conftest import process

        with process(tmp_path / "second", listen={"port": port}) as second:
            assert second.wait() == 5
            assert f"127.0.0.1:{port}" in second.errors[-1]


def cli(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from inferstack_runtime.cli import main; main()", *arguments], capture_output=True, text=True, timeout=60
    )


def test_a_bad_configuration_is_exit_code_2(tmp_path):
    file = tmp_path / "runtime.json"
    file.write_text('{"models": [], "liste": {}}')
    done = cli("serve", "--config", str(file))
    assert done.returncode == 2
    assert "liste" in done.stderr.splitlines()[-1]
    assert cli("serve", "--config", str(tmp_path / "missing.json")).returncode == 2
    file.write_text(
        json.dumps({"models": [{"name": "m", "source": "package://x"}], "access": {"keys_file": str(tmp_path / "no-keys.json")}})
    )
    assert cli("serve", "--config", str(file)).returncode == 2


def test_a_model_that_cannot_load_is_exit_code_5(tmp_path):
    file = tmp_path / "runtime.json"
    file.write_text(json.dumps({"models": [{"name": "m", "source": f"file://{tmp_path}/none.gguf"}]}))
    done = cli("serve", "--config", str(file))
    assert done.returncode == 5
    assert "none.gguf" in done.stderr.splitlines()[-1]


def test_a_slow_client_cannot_hold_a_connection(start):
    import socket

    with start(http={"header_seconds": 0.5, "body_seconds": 0.5}) as run:
        run.event("ready")
        port = run.event("listening")["port"]
        answers = []

        def dribble(first):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(first)
                answers.append(client.recv(4096))

        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        threads = [threading.Thread(target=dribble, args=(first,)) for first in (head, head + b"\r\n{")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(answer.split(b" ")[1] for answer in answers) == [b"408", b"408"]
        assert httpx.get(f"{run.url}/livez").status_code == 200


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_while_a_model_loads_ends_the_process_at_once(start, signals):
    """A download or a conversion of minutes is not waited for."""
    with start("--load-seconds", "60") as run:
        run.event("listening")
        time.sleep(0.3)
        begin = time.monotonic()
        for _ in range(signals):
            run.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert run.wait(15) == 0
        assert time.monotonic() - begin < 8
        assert not [line for line in run.errors if "Traceback" in line]
