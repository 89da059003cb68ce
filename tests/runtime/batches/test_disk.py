"""Batches in a SQLite file on a disk that fills up while they run, and empties again."""

import io
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import openai
import pytest
from conftest import process

pytestmark = [pytest.mark.parts, pytest.mark.timeout(120)]
ENDPOINT = "/v1/chat/completions"


@pytest.fixture
def disk():
    """A disk of 3 MiB of its own."""
    folder = Path(tempfile.mkdtemp(prefix="inferstack-disk-"))
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=False).returncode:
        folder.rmdir()
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def fill(disk: Path) -> Path:
    """A file that leaves no byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def lines(count: int) -> bytes:
    body = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20}
    rows = [{"custom_id": f"c{n}", "method": "POST", "url": ENDPOINT, "body": body} for n in range(count)]
    return "\n".join(map(json.dumps, rows)).encode()


def until(condition, seconds=40):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("when", ["before the first item", "while items run"])
def test_a_disk_that_fills_up_loses_no_accepted_item_and_says_so_to_new_ones(tmp_path, disk, when):
    tiers = {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}
    batches = {"url": f"sqlite:///{disk}/b.sqlite", "concurrency": 2}
    with (
        process(tmp_path, "--step-seconds", "0.01", batches=batches, access={"tiers": tiers}) as run,
        openai.OpenAI(base_url=f"{run.url}/v1", api_key="any", max_retries=0) as client,
    ):
        run.event("ready")
        file = client.files.create(file=io.BytesIO(lines(40)), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
        if when == "while items run":
            until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 5)
        filler = fill(disk)
        until(lambda: any("wait" in line and "database" in line for line in run.errors))
        for _ in range(3):
            with pytest.raises(openai.APIStatusError) as refused:
                client.files.create(file=io.BytesIO(lines(2000)), purpose="batch")
            assert refused.value.status_code == 507, refused.value
            assert "No space" in refused.value.message
        seen = client.batches.retrieve(batch.id)
        assert seen.status == "in_progress"
        assert httpx.get(f"{run.url}/readyz").status_code == 200
        assert client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "y"}]).choices
        filler.unlink()
        done = until(lambda: (found := client.batches.retrieve(batch.id)).status == "completed" and found)
        assert (done.request_counts.completed, done.request_counts.failed) == (40, 0)
        output = [json.loads(line)["custom_id"] for line in client.files.content(done.output_file_id).text.splitlines()]
        assert output == [f"c{n}" for n in range(40)]
        assert run.process.poll() is None
