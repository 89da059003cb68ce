"""The GGUF reader: what it reads, and that no damage gets past it as anything but a typed error."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferstack_runtime.engines.gguf import GgufFile, InvalidModelFile

WriteGguf = Callable[..., Path]
EVERYTHING = {
    "general.architecture": "llama",
    "general.alignment": 32,
    "a.float": 1.5,
    "a.flag": True,
    "a.words": ["one", "two"],
    "a.numbers": [1, 2, 3],
}


@pytest.fixture
def small(write_gguf: WriteGguf) -> Path:
    return write_gguf(EVERYTHING, {"w": np.arange(64, dtype=np.float32).reshape(2, 32), "v": np.ones(32, np.float32)})


def test_it_reads_metadata_and_tensors(small: Path) -> None:
    file = GgufFile(small)
    assert file.metadata == EVERYTHING
    assert file.tensors["w"].shape == (2, 32)
    np.testing.assert_array_equal(file.tensors["w"].data.view(np.float32), np.arange(64))
    assert file.tensors["v"].type_name == "F32"


def test_every_truncation_is_a_typed_error(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    damaged = tmp_path / "cut.gguf"
    for size in range(len(whole)):
        damaged.write_bytes(whole[:size])
        with pytest.raises(InvalidModelFile) as error:
            GgufFile(damaged)
        assert str(damaged) in str(error.value)
        assert error.value.field
        assert 0 <= error.value.offset <= len(whole)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_bytes_read_or_end_in_a_typed_error(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "changed.gguf"
    damaged.write_bytes(content)
    try:
        file = GgufFile(damaged)
    except InvalidModelFile:
        return
    for tensor in file.tensors.values():
        assert tensor.data.nbytes <= len(content)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"GGML", r"magic at byte 0: is b'GGML'"),
        (4, struct.pack("<I", 9), "version at byte 4: is 9, expected 2 or 3"),
        (8, struct.pack("<Q", 1 << 60), "tensor count at byte 8: is 1152921504606846976"),
        (16, struct.pack("<Q", 1 << 40), "metadata count"),
    ],
)
def test_a_damaged_header_names_field_and_byte(small: Path, offset: int, value: bytes, message: str) -> None:
    content = bytearray(small.read_bytes())
    content[offset : offset + len(value)] = value
    small.write_bytes(content)
    with pytest.raises(InvalidModelFile, match=message):
        GgufFile(small)


def test_a_missing_an_empty_and_a_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match=r"none\.gguf: file at byte 0: No such file"):
        GgufFile(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(InvalidModelFile, match="is empty"):
        GgufFile(tmp_path / "empty.gguf")
    with pytest.raises(InvalidModelFile, match="Is a directory"):
        GgufFile(tmp_path)
