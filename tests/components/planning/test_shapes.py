"""Models that the catalogue does not have: their config.json is read as the public figures of known models say."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.environment import InvalidEnvironment, load_environment
from inferstack.planning import catalogue, check, environment_fit, plan_findings
from inferstack.planning.catalogue import GIB
from inferstack.planning.fit import Fit, Served, cache_bytes_per_token, gpu_fit, weight_bytes
from inferstack.planning.shapes import UnknownShape, from_config

from .fixtures import HERE, base, changed

CASES: list[dict[str, Any]] = yaml.safe_load((HERE / "configs.yaml").read_text())
CONFIGS = {case["name"].partition(",")[0]: case["config"] for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_parameters_and_cache_are_those_of_the_model(case: dict[str, Any]) -> None:
    shape = from_config(case["config"], "m")
    assert shape.parameters == pytest.approx(case["parameters"], rel=2e-3)
    assert cache_bytes_per_token(shape) == case["cache"]
    assert shape.windowed_layers == case.get("windowed", 0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "num_hidden_layers|hidden_size"),
        ({**CONFIGS["llama-3.1-8b"], "vocab_size": "many"}, "vocab_size"),
        ({**CONFIGS["llama-3.1-8b"], "num_attention_heads": 0}, "no layers, heads or width"),
        ({**CONFIGS["llama-3.1-8b"], "is_encoder_decoder": True}, "encoder and decoder"),
        ([1], "no mapping"),
    ],
)
def test_what_no_memory_can_be_planned_from_is_said(config: Any, words: str) -> None:
    with pytest.raises(UnknownShape, match=words):
        from_config(config, "m")


def test_a_latent_is_whole_on_every_shard_and_a_head_is_repeated_rather_than_split() -> None:
    latent, grouped = from_config(CONFIGS["deepseek-v3"], "m"), from_config(CONFIGS["qwen2.5-7b"], "m")
    assert cache_bytes_per_token(latent, 8) == cache_bytes_per_token(latent) == 70272
    assert cache_bytes_per_token(grouped, 2) == 57344 // 2
    assert cache_bytes_per_token(grouped, 7) == cache_bytes_per_token(grouped, 4) == 57344 // 4  # 4 heads, one on each shard


@pytest.mark.parametrize(("accelerator", "loads"), [("nvidia-h200-141gb", True), ("nvidia-h100-80gb", False)])
def test_deepseek_in_eight_bits_loads_on_eight_h200_and_not_on_eight_h100(accelerator: str, loads: bool) -> None:
    served = Served(from_config(CONFIGS["deepseek-v3"], "m"), "fp8", 32768)
    found = gpu_fit([served], catalogue.gpus()[accelerator].memory, tensor_parallel=8, sequences=64, batch_tokens=8192)
    assert found.weights / GIB == pytest.approx(78.5, rel=0.01)  # 671 billion bytes over eight
    assert (found.room > 0) is loads


def fits(found: Fit, sequences: int, tokens: int) -> bool:
    return sequences * found.sequence_bytes(tokens) <= found.room


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-2-9b", "gpt-oss-20b", "gemma-3-4b"])
@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("sequences", [1, 7, 200])
def test_the_largest_context_fits_and_one_token_more_does_not(name: str, windows: bool, sequences: int) -> None:
    served = Served(from_config(CONFIGS[name], "m"), "int8", 8192)
    found = gpu_fit([served], catalogue.gpus()["nvidia-l4"].memory, sequences=64, batch_tokens=2048, windows=windows)
    longest = found.largest_context(sequences)
    if found.room > 0:
        assert fits(found, sequences, longest)
        assert not fits(found, sequences, longest + 1)
        assert fits(found, found.full_sequences, found.context)
        assert not fits(found, found.full_sequences + 1, found.context)


def test_a_window_leaves_room_for_more_sequences_by_hand() -> None:
    served = Served(from_config(CONFIGS["gpt-oss-20b"], "m"), "int4", 8192)
    whole, windowed = (
        gpu_fit([served], catalogue.gpus()["nvidia-l4"].memory, sequences=16, batch_tokens=2048, windows=windows)
        for windows in (False, True)
    )
    assert whole.sequence_bytes(8192) == 8192 * 49152
    assert windowed.sequence_bytes(8192) == 8192 * 24576 + 128 * 24576  # half the layers keep 128 tokens
    assert windowed.full_sequences > 1.9 * whole.full_sequences


def test_weights_by_format_of_a_model_from_its_config() -> None:
    shape = from_config(CONFIGS["llama-3.1-8b"], "m")
    embeddings = 2 * 128256 * 4096
    assert weight_bytes(shape, "bf16") == 2 * 8030261248
    assert weight_bytes(shape, "fp8") == (8030261248 - embeddings) + 2 * embeddings


def stack(folder: Path, config: str) -> Path:
    raw = changed(
        base("gke"), {"models~": [{"name": "mine", "source": "gs://w/x", "quantization": "fp8", "context": 4096, "config": config}]}
    )
    (folder / "Pulumi.x.yaml").write_text(yaml.safe_dump({"config": {"inferstack:environment": raw}}))
    return folder


def test_an_environment_names_the_file_and_is_planned_from_it(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(CONFIGS["llama-3.1-8b"]))
    environment = load_environment(stack(tmp_path, "mine.json"), "x")
    known = check(base("gke"))
    assert [finding.rule for finding in plan_findings(environment)] == [finding.rule for finding in known]
    fit = environment_fit(environment)
    assert fit is not None
    assert fit.full_sequences > 1


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), ("{", "a JSON file"), ("[]", "a mapping")])
def test_a_file_that_is_none_is_one_clear_problem(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "mine.json").write_text(content)
    with pytest.raises(InvalidEnvironment) as caught:
        load_environment(stack(tmp_path, "mine.json"), "x")
    (problem,) = caught.value.problems
    assert problem.path == "models[0].config"
    assert words in str(problem)


def test_a_config_without_a_shape_is_one_finding() -> None:
    model = {"name": "mine", "source": "gs://w/x", "quantization": "fp8", "context": 4096, "config": {"model_type": "llama"}}
    found = [finding for finding in check(changed(base("gke"), {"models~": [model]})) if finding.severity != "info"]
    assert [(finding.rule, finding.path) for finding in found] == [("model-config", "models[0].config")]
    assert "num_hidden_layers" in found[0].message or "hidden_size" in found[0].message
