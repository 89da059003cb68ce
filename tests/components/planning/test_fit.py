from pathlib import Path
from typing import Any

import pytest

from inferstack.planning import catalogue, fit, published
from inferstack.planning.catalogue import GIB

LLAMA = catalogue.architectures()["llama-3.1-8b-instruct"]
H100 = catalogue.gpus()["nvidia-h100-80gb"]


def fit_of(model: str, quantization: str, memory: int, context: int = 4096, **options: int) -> fit.Fit:
    served = fit.Served(catalogue.architectures()[model], quantization, context)
    return fit.gpu_fit([served], memory, **{"sequences": 32, "batch_tokens": 512, **options})


@pytest.mark.parametrize(
    "c", published.comparisons(), ids=lambda c: f"{c.row['source']}-{c.row['model']}-{c.row['gpus']}x{c.row['accelerator']}"
)
def test_the_fit_agrees_with_public_figures_within_ten_percent(c: published.Comparison) -> None:
    assert abs(c.used_difference) <= 0.10
    assert abs(c.weights / c.row["weights"] - 1) <= 0.10
    if c.cache_difference is not None:
        assert abs(c.cache_difference) <= 0.10


def test_at_least_ten_pairs_of_model_and_gpu_are_compared() -> None:
    pairs = {(c.row["model"], c.row["quantization"], c.row["accelerator"], c.row["gpus"]) for c in published.comparisons()}
    assert len(pairs) >= 10


def test_the_page_is_what_the_data_give() -> None:
    page = Path(__file__).parents[3] / "docs" / "fit.md"
    assert page.read_text(encoding="utf-8") == published.page()


def test_weights_follow_the_bits_of_the_format() -> None:
    sizes = {q: fit.weight_bytes(LLAMA, q) for q in ("bf16", "int8", "fp8", "int4", "awq")}
    assert sizes["bf16"] == 2 * LLAMA.parameters
    assert sizes["bf16"] > sizes["int8"] > sizes["fp8"] > sizes["int4"] > sizes["awq"]


@pytest.mark.parametrize(
    ("model", "quantization", "gigabytes"),
    [
        ("qwen3-8b", "awq", 5.68),  # Qwen/Qwen3-8B-AWQ in KAITO's model catalogue
        ("llama-3.3-70b-instruct", "bf16", 131.42),
        ("phi-4", "bf16", 27.31),
        ("gemma-3-27b-it", "bf16", 51.10),
        ("mistral-7b-instruct-v0.3", "bf16", 13.50),
        ("qwen2.5-coder-32b-instruct", "bf16", 61.03),
        ("deepseek-r1-distill-qwen-14b", "bf16", 27.51),
        ("gemma-3-4b-it", "bf16", 8.01),
    ],
)
def test_weights_agree_with_the_size_of_published_files(model: str, quantization: str, gigabytes: float) -> None:
    assert fit.weight_bytes(catalogue.architectures()[model], quantization) / GIB == pytest.approx(gigabytes, rel=0.01)


def test_a_gguf_file_is_counted_by_the_width_in_its_name() -> None:
    named = fit.weight_bytes(LLAMA, "gguf", "hf://bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf")
    assert named / GIB == pytest.approx(4.58, rel=0.02)
    assert fit.weight_bytes(LLAMA, "gguf", "file:///model.gguf") > named  # no width named: Q8_0


@pytest.mark.parametrize(
    ("model", "bytes_per_token"),
    [("mistral-small-3.2-24b-instruct", 163840), ("phi-4-mini-instruct", 131072), ("phi-4", 204800), ("gemma-3-4b-it", 139264)],
)
def test_cache_per_token_is_what_engines_report(model: str, bytes_per_token: int) -> None:
    assert fit.cache_bytes_per_token(catalogue.architectures()[model]) == bytes_per_token


def test_shards_divide_weights_and_cache_but_never_split_a_head() -> None:
    one, four = (
        fit_of("llama-3.1-8b-instruct", "bf16", H100.memory),
        fit_of("llama-3.1-8b-instruct", "bf16", H100.memory, tensor_parallel=4),
    )
    assert four.weights == pytest.approx(one.weights / 4, rel=1e-6)
    assert four.cache_per_token == one.cache_per_token // 4
    assert fit.cache_bytes_per_token(LLAMA, tensor_parallel=16) == fit.cache_bytes_per_token(LLAMA, tensor_parallel=8)
    assert fit.cache_bytes_per_token(LLAMA, pipeline_parallel=2) == fit.cache_bytes_per_token(LLAMA) // 2


def test_largest_context_and_batch_fill_the_room_and_no_more() -> None:
    result = fit_of("llama-3.1-8b-instruct", "bf16", H100.memory)
    longest, batch = result.largest_context(), result.full_sequences
    assert longest * result.cache_per_token <= result.room < (longest + 1) * result.cache_per_token
    assert batch * result.context * result.cache_per_token <= result.room < (batch + 1) * result.context * result.cache_per_token
    assert result.largest_context(4) == longest // 4


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("sequences", [1, 7])
@pytest.mark.parametrize("model", sorted(catalogue.architectures()))
def test_the_longest_context_that_is_stated_fits_and_one_token_more_does_not(model: str, sequences: int, windows: bool) -> None:
    served = fit.Served(catalogue.architectures()[model], "int8", 512)
    result = fit.gpu_fit([served], H100.memory, sequences=sequences, batch_tokens=2048, windows=windows)
    if result.room > 0:
        longest = result.largest_context(sequences)
        assert sequences * result.sequence_bytes(longest) <= result.room < sequences * result.sequence_bytes(longest + 1)


def test_a_model_that_does_not_load_has_no_cache() -> None:
    result = fit_of("llama-3.3-70b-instruct", "bf16", H100.memory)
    assert result.room < 0
    assert (result.cache_tokens, result.full_sequences, result.largest_context()) == (0, 0, 0)


def test_mig_slices_share_a_gpu() -> None:
    assert fit.partitions_per_gpu(H100, "1g.10gb") == 7
    assert fit.partitions_per_gpu(H100, "1g.20gb") == 4
    assert fit.partitions_per_gpu(H100, "3g.40gb") == 2
    assert fit.partition_memory(H100, "3g.40gb") == H100.memory // 2


@pytest.mark.parametrize(
    "row", catalogue.read("published-fit.yaml")["verdicts"], ids=lambda r: f"{r['model']}-{r['gpus']}x{r['accelerator']}"
)
def test_what_a_public_table_says_fits_does_and_what_it_says_does_not_does_not(row: dict[str, Any]) -> None:
    memory = catalogue.gpus()[row["accelerator"]].memory
    result = fit_of(row["model"], row["quantization"], memory, tensor_parallel=row["gpus"], sequences=256, batch_tokens=8192)
    longest = result.largest_context()
    assert longest >= (row["context"] or 0)
    if row["context"] is None:
        assert result.room <= 0
    elif row["model"] == "llama-3.3-70b-instruct" and row["gpus"] == 1:
        assert longest < 4 * row["context"]  # the next step of the table was not served
