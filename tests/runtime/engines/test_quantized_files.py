"""Whole models in GGUF's tensor types: the bundled model written anew in each, loaded as shipped, against its own dequantized weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inferstack_runtime import kernels
from inferstack_runtime.engines.convert import convert, rewrite
from inferstack_runtime.engines.evaluation import evaluate, evaluation_texts
from inferstack_runtime.engines.gguf import BLOCKS, Tensor
from inferstack_runtime.engines.opening import open_model
from inferstack_runtime.engines.packed import load_packed
from tests.runtime.kernels.test_products import k_dequantized

NUMBERS = {name: number for number, (name, _, _) in BLOCKS.items()}


def half(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values as float16: their bytes, and what they are now."""
    rounded = values.astype(np.float16)
    return rounded[..., None].view(np.uint8).reshape(len(values), -1), rounded.astype(np.float32)


def divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def q5_0(weights: np.ndarray) -> np.ndarray:
    groups = weights.reshape(-1, 32)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
    scale, d = half(extreme[:, 0] / -16)
    codes = np.clip(np.rint(divided(groups, d[:, None] + 0 * groups)) + 16, 0, 31).astype(np.uint8)
    high = np.packbits(codes >> 4, axis=1, bitorder="little")
    return np.concatenate([scale, high, codes[:, :16] & 15 | codes[:, 16:] << 4 & 0xF0], axis=1)


def q6_k(weights: np.ndarray) -> np.ndarray:
    groups = weights.reshape(-1, 16, 16)
    scales = np.abs(groups).max(axis=2) / 31
    packed, d = half(scales.max(axis=1) / 127)
    eighths = np.rint(divided(scales, d[:, None] + 0 * scales)).clip(0, 127)
    codes = np.clip(np.rint(divided(groups, (d[:, None] * eighths)[..., None] + 0 * groups)), -32, 31).astype(np.int32) + 32
    values = codes.reshape(-1, 2, 128).astype(np.uint8)
    low = (values[:, :, :64] & 15) | (values[:, :, 64:] & 15) << 4
    pairs = (values >> 4).reshape(-1, 2, 4, 32)
    high = pairs[:, :, 0] | pairs[:, :, 1] << 2 | pairs[:, :, 2] << 4 | pairs[:, :, 3] << 6
    parts = [low.reshape(-1, 128), high.reshape(-1, 64), eighths.astype(np.uint8), packed]
    return np.concatenate(parts, axis=1)


def with_minima(weights: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The 16 bytes that Q4_K and Q5_K begin with, and codes [blocks][256] up to `most`."""
    groups = weights.reshape(-1, 8, 32)
    minima = np.maximum(-groups.min(axis=2), 0)
    scales = (groups.max(axis=2) + minima) / most
    scale_bytes, d = half(scales.max(axis=1) / 63)
    minimum_bytes, m = half(minima.max(axis=1) / 63)
    six = np.rint(divided(scales, d[:, None] + 0 * scales)).clip(0, 63).astype(np.int32)
    least = np.rint(divided(minima, m[:, None] + 0 * minima)).clip(0, 63).astype(np.int32)
    unit = (d[:, None] * six)[..., None] + 0 * groups
    codes = np.clip(np.rint(divided(groups + (m[:, None] * least)[..., None], unit)), 0, most).astype(np.uint8)
    packed = np.concatenate(
        [six[:, :4] | six[:, 4:] >> 4 << 6, least[:, :4] | least[:, 4:] >> 4 << 6, six[:, 4:] & 15 | (least[:, 4:] & 15) << 4], axis=1
    )
    return np.concatenate([scale_bytes, minimum_bytes, packed.astype(np.uint8)], axis=1), codes.reshape(-1, 256)


def nibbles(codes: np.ndarray) -> np.ndarray:
    runs = codes.reshape(-1, 4, 2, 32) & 15
    return (runs[:, :, 0] | runs[:, :, 1] << 4).reshape(-1, 128)


def q4_k(weights: np.ndarray) -> np.ndarray:
    head, codes = with_minima(weights, 15)
    return np.concatenate([head, nibbles(codes)], axis=1)


def q5_k(weights: np.ndarray) -> np.ndarray:
    head, codes = with_minima(weights, 31)
    fifth = (codes >> 4).reshape(-1, 8, 32)
    high = sum(fifth[:, i] << i for i in range(8))
    return np.concatenate([head, high, nibbles(codes)], axis=1)


WRITERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"Q5_0": q5_0, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}


@pytest.mark.parametrize(("kind", "bound"), [("Q4_K", 0.09), ("Q5_K", 0.045), ("Q6_K", 0.025)])
def test_the_writers_of_this_test_write_what_the_types_define(kind: str, bound: float) -> None:
    weights = np.random.default_rng(3).standard_normal((64, 256)).astype(np.float32)
    read = k_dequantized(kind, WRITERS[kind](weights))
    assert np.linalg.norm(read - weights) / np.linalg.norm(weights) < bound


def rewritten(path: Path, output: Path, library: kernels.Library, kind: str, fallback: str) -> dict[str, int]:
    """The model with its matrices as `kind` where rows are whole blocks of it, else as `fallback`; how many became which."""
    counts = {kind: 0, fallback: 0}

    def change(tensor: Tensor) -> tuple[int, np.ndarray] | None:
        if len(tensor.shape) != 2 or tensor.name == "token_embd.weight":
            return None
        name = kind if tensor.shape[-1] % BLOCKS[NUMBERS[kind]][1] == 0 else fallback
        counts[name] += 1
        weights = library.unpack_source(tensor.type, tensor.data, int(np.prod(tensor.shape)))
        return NUMBERS[name], WRITERS[name](weights).reshape(-1)

    rewrite(path, output, change)
    return counts


def agrees(path: Path, least: float, tmp_path: Path) -> None:
    """As shipped against the same file's weights in bfloat16 with float arithmetic."""
    result = evaluate(open_model(path, None), "gguf", threads=2, cache=tmp_path / "weights", texts=evaluation_texts()[:4])
    assert result.tokens > 150
    assert result.top1_agreement >= least, result
    assert result.perplexity_ratio < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_a_whole_model_of_k_types_agrees_with_its_dequantized_weights(kind: str, model_file: Path, tmp_path: Path) -> None:
    """Its 576 inputs are no whole blocks of 256, so those matrices are Q5_0, as other tools write such models."""
    counts = rewritten(model_file, tmp_path / "k.gguf", kernels.load(), kind, "Q5_0")
    assert counts == {kind: 30, "Q5_0": 180}
    agrees(tmp_path / "k.gguf", 0.93, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_a_whole_model_of_simple_types_agrees_with_its_dequantized_weights(kind: str, model_file: Path, tmp_path: Path) -> None:
    assert convert(model_file, kind, tmp_path / "simple.gguf", kernels.load()) == 210
    agrees(tmp_path / "simple.gguf", 0.93, tmp_path)


@pytest.mark.slow
def test_five_bit_codes_are_held_as_they_are(model_file: Path, tmp_path: Path) -> None:
    library = kernels.load()
    rewritten(model_file, tmp_path / "q5.gguf", library, "Q5_0", "Q5_0")
    source = open_model(tmp_path / "q5.gguf", None)
    matrix, stored = load_packed(source, "gguf", None, library)["0.down"], source.tensors["0.down"]
    assert matrix.format == "w8_group"
    expected = library.unpack_source(stored.type, stored.data, matrix.n * matrix.k).reshape(matrix.n, matrix.k)
    for row in (0, 77, 575):
        np.testing.assert_array_equal(library.unpack_row(matrix.format, matrix.n, matrix.k, matrix.data, row), expected[row])
