"""Every packed format on every variant against float arithmetic on the dequantized weights."""

import numpy as np
import pytest

from inferstack_runtime import kernels

F32, Q4_0, Q4_1, Q8_0 = 0, 2, 3, 8
EXACT = {"f32": F32, "w4_group": Q4_0, "w4_minimum": Q4_1, "w8_group": Q8_0}
VARIANTS = kernels.supported()
rng = np.random.default_rng(7)


def blocks_of(source: int, n: int, k: int) -> np.ndarray:
    """Random valid GGUF blocks of an n x k matrix."""
    if source == F32:
        return rng.standard_normal((n, k)).astype(np.float32).view(np.uint8).reshape(-1)
    size = {Q4_0: 18, Q4_1: 20, Q8_0: 34}[source]
    data = rng.integers(0, 256, (n * k // 32, size), dtype=np.uint8)
    halves = 2 if source == Q4_1 else 1
    data[:, : 2 * halves] = (rng.standard_normal((len(data), halves)) * 0.01).astype(np.float16).view(np.uint8)
    return data.reshape(-1)


def dequantized(source: int, data: np.ndarray, n: int, k: int) -> np.ndarray:
    """GGUF's definition of a block, in numpy."""
    if source == F32:
        return data.view(np.float32).reshape(n, k)
    size = {Q4_0: 18, Q4_1: 20, Q8_0: 34}[source]
    rows = data.reshape(-1, size)
    scale = rows[:, :2].copy().view(np.float16).astype(np.float32)
    if source == Q8_0:
        return (rows[:, 2:].view(np.int8) * scale).reshape(n, k)
    nibbles = rows[:, -16:]
    q = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32)
    if source == Q4_0:
        return ((q - 8) * scale).reshape(n, k)
    return (q * scale + rows[:, 2:4].copy().view(np.float16).astype(np.float32)).reshape(n, k)


def pack(library: kernels.Library, packed: str, source: int, data: np.ndarray, n: int, k: int) -> np.ndarray:
    out = kernels.aligned(library.packed_bytes(packed, n, k))
    library.pack(packed, n, k, source, data, out, range(-(-n // 32)))
    return out


@pytest.mark.parametrize("packed", EXACT)
def test_packing_a_matrix_in_its_own_format_loses_nothing(packed: str) -> None:
    library, n, k = kernels.load("portable"), 70, 96
    data = blocks_of(EXACT[packed], n, k)
    out = pack(library, packed, EXACT[packed], data, n, k)
    expected = dequantized(EXACT[packed], data, n, k)
    for row in range(n):
        np.testing.assert_array_equal(library.unpack_row(packed, n, k, out, row), expected[row])


def k_blocks(kind: str, count: int) -> np.ndarray:
    """Random valid blocks of 256 weights: the halves that scale a block are small numbers, all other bytes are free."""
    size, halves = {"Q2_K": (84, (80, 82)), "Q3_K": (110, (108,)), "Q4_K": (144, (0, 2)), "Q5_K": (176, (0, 2)), "Q6_K": (210, (208,))}[
        kind
    ]
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:
        data[:, at : at + 2] = (rng.random((count, 1)) * 0.01 + 0.001).astype(np.float16).view(np.uint8)
    return data


def k_dequantized(kind: str, data: np.ndarray) -> np.ndarray:
    """The K types by their definition in ggml, array by array."""

    def half(at: int) -> np.ndarray:
        return data[:, at : at + 2].copy().view(np.float16).astype(np.float32)

    def codes(at: int, bits: int, size: int) -> np.ndarray:
        """[blocks][256]: fields of `bits` of runs of `size` bytes, the lowest bits of a run first."""
        runs = data[:, at : at + 256 * bits // 8].reshape(len(data), -1, 1, size)
        shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
        return ((runs >> shifts) & ((1 << bits) - 1)).reshape(len(data), 256).astype(np.int32)

    if kind in ("Q4_K", "Q5_K"):
        low, middle, high = (data[:, at : at + 4].astype(np.int32) for at in (4, 8, 12))
        scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
        minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=1)
        values = codes(16, 4, 32) if kind == "Q4_K" else codes(48, 4, 32) + (codes(16, 1, 32) << 4)
        return (half(0) * scales).repeat(32, axis=1) * values - (half(2) * minima).repeat(32, axis=1)
    if kind == "Q6_K":
        values = codes(0, 4, 64) | codes(128, 2, 32) << 4
        return (half(208) * data[:, 192:208].view(np.int8)).repeat(16, axis=1) * (values - 32)
    if kind == "Q3_K":
        packed = data[:, 96:108].astype(np.int32)
        low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
        high = np.concatenate([packed[:, 8:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
        values = codes(32, 2, 32) - 4 * (1 - codes(0, 1, 32))
        return (half(108) * ((low | high << 4) - 32)).repeat(16, axis=1) * values
    scales = data[:, :16].astype(np.int32)
    return (half(80) * (scales & 15)).repeat(16, axis=1) * codes(16, 2, 32) - (half(82) * (scales >> 4)).repeat(16, axis=1)


K_TYPES = {"Q2_K": (10, "w8_group", 0.01), "Q3_K": (11, "w8_group", 0.01), "Q4_K": (12, "w4_minimum", 0.0006)}
K_TYPES |= {"Q5_K": (13, "w8_group", 0.01), "Q6_K": (14, "w8_group", 0.01)}


@pytest.mark.parametrize("kind", K_TYPES)
def test_k_types_are_read_by_their_definition_and_packed_with_little_loss(kind: str) -> None:
    library, n, k = kernels.load("portable"), 40, 512
    number, packed, bound = K_TYPES[kind]
    data = k_blocks(kind, n * k // 256)
    expected = k_dequantized(kind, data).reshape(n, k)
    np.testing.assert_allclose(library.unpack_source(number, data.reshape(-1), n * k).reshape(n, k), expected, rtol=1e-6, atol=1e-6)
    out = pack(library, packed, number, data.reshape(-1), n, k)
    weights = np.stack([library.unpack_row(packed, n, k, out, row) for row in range(n)])
    assert np.linalg.norm(weights - expected) / np.linalg.norm(expected) < bound
    with pytest.raises(ValueError, match="whole blocks"):
        library.unpack_source(number, data.reshape(-1), 128)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("packed", kernels.FORMATS)
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 64, 96), (5, 33, 576), (13, 96, 32), (41, 33, 160)])
def test_a_product_equals_float_arithmetic_on_the_dequantized_weights(variant: str, packed: str, rows: int, n: int, k: int) -> None:
    library = kernels.load(variant)
    source = EXACT.get(packed, F32)
    out = pack(library, packed, source, blocks_of(source, n, k), n, k)
    weights = np.stack([library.unpack_row(packed, n, k, out, row) for row in range(n)]).astype(np.float64)
    x = rng.standard_normal((rows, k)).astype(np.float32)
    if packed.startswith("w"):  # integer formats round activations to 127 steps per group of 32; do the same here
        groups = x.reshape(rows, -1, 32)
        largest = np.abs(groups).max(axis=2, keepdims=True)
        x = (np.rint(groups * (np.float32(127) / largest)) * (largest / np.float32(127))).reshape(rows, k)
    expected = x.astype(np.float64) @ weights.T
    actual = library.product(packed, n, k, out, x)
    scale = np.abs(x).astype(np.float64) @ np.abs(weights.T)
    assert (np.abs(actual - expected) <= 3e-6 * scale + 1e-9).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("packed", kernels.FORMATS)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(variant: str, packed: str) -> None:
    library, n, k = kernels.load(variant), 64, 192
    out = pack(library, packed, F32, blocks_of(F32, n, k), n, k)
    x = rng.standard_normal((41, k)).astype(np.float32)  # so many that panels are unpacked once for all
    together = library.product(packed, n, k, out, x)
    for row in range(41):
        np.testing.assert_array_equal(library.product(packed, n, k, out, x[row : row + 1])[0], together[row])


@pytest.mark.parametrize(
    ("packed", "bound"),
    [("bf16", 0.003), ("f16", 0.0004), ("w8_channel", 0.02), ("w8_group", 0.01), ("w4_group", 0.12), ("w4_minimum", 0.10), ("nf4", 0.12)],
)
def test_quantizing_normal_weights_keeps_the_relative_error_of_the_format(packed: str, bound: float) -> None:
    library, n, k = kernels.load("portable"), 64, 512
    data = blocks_of(F32, n, k)
    out = pack(library, packed, F32, data, n, k)
    weights = np.stack([library.unpack_row(packed, n, k, out, row) for row in range(n)])
    exact = dequantized(F32, data, n, k)
    assert np.linalg.norm(weights - exact) / np.linalg.norm(exact) < bound


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_value_that_is_not_finite_reaches_the_result(variant: str, poison: float) -> None:
    library, n, k = kernels.load(variant), 32, 64
    for packed in kernels.FORMATS:
        out = pack(library, packed, F32, blocks_of(F32, n, k), n, k)
        x = np.ones((2, k), np.float32)
        x[1, 40] = poison
        result = library.product(packed, n, k, out, x)
        assert np.isfinite(result[0]).all()
        assert not np.isfinite(result[1]).any()


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(kernels.KernelsUnavailable, match=r"'sse9'.*portable"):
        kernels.load("sse9")


def test_a_variant_that_this_cpu_does_not_run_is_refused_before_it_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_runs", lambda variant: variant == "portable")
    assert kernels.supported() == ("portable",)
    with pytest.raises(kernels.KernelsUnavailable, match=r"'avxvnni': this CPU does not run them; it runs portable"):
        kernels.load.__wrapped__("avxvnni")


def test_a_library_that_does_not_load_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(kernels.KernelsUnavailable, match=r"_avx2\.so: no such library"):
        kernels.Library("avx2")
    (tmp_path / "_avx2.so").write_bytes(b"not a library")
    with pytest.raises(kernels.KernelsUnavailable, match=r"_avx2\.so: does not load"):
        kernels.Library("avx2")
