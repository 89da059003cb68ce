"""A kernel library that is missing, is none, was cut off, or is of other sources: an error that names it, not the end of the process."""

import shutil
from pathlib import Path

import pytest

from inferstack_runtime import kernels

OWN = Path(kernels.__file__).parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(OWN / "_portable.so", tmp_path)
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "__init__.py"))
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(kernels.KernelsUnavailable) as error:
        kernels.Library("portable")
    assert str(folder / "_portable.so") in str(error.value)
    return str(error.value)


def test_a_whole_library_loads(folder: Path) -> None:
    assert kernels.Library("portable").path == folder / "_portable.so"


def test_a_library_that_was_cut_off_anywhere(folder: Path) -> None:
    library = folder / "_portable.so"
    whole = library.read_bytes()
    for size in {0, 1, 63, 64, 4095, 4096, *range(5000, len(whole), len(whole) // 23), len(whole) - 1}:
        library.write_bytes(whole[:size])
        assert "install the package anew" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"not a library" * 40, bytes(4096), b"\x7fELF\x02\x01\x01" + bytes(4096)])
def test_a_file_that_is_no_library(content: bytes, folder: Path) -> None:
    (folder / "_portable.so").write_bytes(content)
    assert "does not load" in refused(folder)


def test_a_library_that_is_missing_or_of_other_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ABI_VERSION", kernels.ABI_VERSION + 1)
    assert "built from other sources" in refused(folder)
    (folder / "_portable.so").unlink()
    assert "no such library" in refused(folder)
