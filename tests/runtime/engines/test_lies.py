"""Model files that lie: sizes, offsets, names and types that no honest writer produces end in an error that names file and field."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.gguf import GgufFile, InvalidModelFile
from inferstack_runtime.engines.opening import open_model
from inferstack_runtime.engines.safetensors import read_safetensors
from inferstack_runtime.engines.shape import UnsupportedArchitecture
from tests.runtime.engines.test_architectures import CONFIG, gguf_metadata, gguf_tensors, random_weights, write_folder

WriteGguf = Callable[..., Path]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def raw_gguf(path: Path, pairs: list[bytes], infos: list[bytes], data: bytes = bytes(256)) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join(pairs) + b"".join(infos)
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def info(name: str, shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, offset)


GGUF_LIES: dict[str, tuple[list[bytes], list[bytes], str]] = {
    "a string of 2^63 bytes": ([struct.pack("<Q", 1 << 63) + b"key"], [], "key 0 of the metadata"),
    "a string as long as all numbers": ([struct.pack("<Q", (1 << 64) - 1)], [], "key 0 of the metadata"),
    "a value of 2^63 bytes": ([text("k") + struct.pack("<IQ", 8, 1 << 63)], [], "k at byte"),
    "an array of 2^62 numbers": ([text("k") + struct.pack("<IIQ", 9, 4, 1 << 62)], [], "length of k"),
    "an array of 2^61 texts": ([text("k") + struct.pack("<IIQ", 9, 8, 1 << 61)], [], "length of k"),
    "arrays in arrays without end": ([text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 40], [], "type of k"),
    "a value of no type": ([text("k") + struct.pack("<I", 13)], [], "type of k"),
    "an array of no type": ([text("k") + struct.pack("<IIQI", 9, 77, 1, 0)], [], "type of k"),
    "a key twice": ([text("k") + struct.pack("<II", 4, 1), text("k") + struct.pack("<II", 4, 2)], [], "k at byte"),
    "alignment 0": ([text("general.alignment") + struct.pack("<II", 4, 0)], [info("w")], "general.alignment"),
    "alignment as a text": ([text("general.alignment") + struct.pack("<I", 8) + text("32")], [info("w")], "general.alignment"),
    "alignment past the file": ([text("general.alignment") + struct.pack("<IQ", 10, 1 << 60)], [info("w")], "data of w"),
    "a tensor twice": ([], [info("w"), info("w", offset=128)], "name of w"),
    "a tensor of no type": ([], [info("w", kind=4)], "type of w"),
    "a tensor of type 2^32 - 1": ([], [info("w", kind=0xFFFFFFFF)], "type of w"),
    "a tensor of no rank": ([], [text("w") + struct.pack("<I", 0)], "rank of w"),
    "a tensor of rank 2^31": ([], [text("w") + struct.pack("<I", 1 << 31)], "rank of w"),
    "an empty dimension": ([], [info("w", (32, 0))], "shape of w"),
    "dimensions whose product is 0 in 64 bits": ([], [info("w", (1 << 32, 1 << 32))], "shape of w"),
    "dimensions whose bytes are 32 in 64 bits": ([], [info("w", ((1 << 62) + 8,))], "shape of w"),
    "a row that is half a block": ([], [info("w", (16, 4), 2)], "shape of w"),
    "an offset past the file": ([], [info("w", offset=1 << 40)], "data of w"),
    "an offset that is negative": ([], [info("w", offset=(1 << 64) - 32)], "data of w"),
    "an offset between alignments": ([], [info("w", offset=4)], "data of w"),
    "tensors that overlap": ([], [info("v"), info("w", offset=96)], "data of w"),
    "a tensor inside another": ([], [info("v", (64,)), info("w", (8,), offset=64)], "data of w"),
}


@pytest.mark.parametrize("lie", GGUF_LIES)
def test_a_gguf_file_that_lies_is_named_with_its_field(lie: str, tmp_path: Path) -> None:
    pairs, infos, field = GGUF_LIES[lie]
    path = raw_gguf(tmp_path / "lie.gguf", pairs, infos)
    with pytest.raises(InvalidModelFile) as error:
        GgufFile(path)
    assert str(path) in str(error.value)
    assert field in str(error.value)


def test_a_gguf_model_cut_at_every_boundary_of_its_tensors_is_a_typed_error(write_gguf: WriteGguf) -> None:
    path = write_gguf(gguf_metadata("llama"), gguf_tensors("llama", random_weights(CONFIG)))
    whole = path.read_bytes()
    file = GgufFile(path)
    address = np.frombuffer(file._map, np.uint8).ctypes.data
    ends = [tensor.data.ctypes.data - address + tensor.data.nbytes for tensor in file.tensors.values()]
    assert max(ends) <= len(whole)
    for end in ends:
        for size in {end - 1, end - 32, end if end < max(ends) else end - 1}:
            path.write_bytes(whole[:size])
            with pytest.raises(InvalidModelFile, match=r"data of .*needs \d+ bytes"):
                open_model(path, None)


def test_a_list_of_token_types_that_is_none_is_no_crash(write_gguf: WriteGguf) -> None:
    metadata = gguf_metadata("llama") | {"tokenizer.ggml.token_type": 0, "tokenizer.ggml.eos_token_id": 3}
    assert open_model(write_gguf(metadata, gguf_tensors("llama", random_weights(CONFIG))), None).end_tokens == {3}


@pytest.mark.parametrize("values", [[0.0] * 16, [float("nan")] * 16, [1.0] * 15])
def test_rotary_factors_that_no_model_has_are_named(write_gguf: WriteGguf, values: list[float]) -> None:
    tensors = gguf_tensors("llama", random_weights(CONFIG)) | {"rope_freqs.weight": np.array(values, np.float32)}
    with pytest.raises(ModelLoadError, match=r"rope_freqs\.weight"):
        open_model(write_gguf(gguf_metadata("llama"), tensors), None)


F32 = {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}
SAFETENSORS_LIES: dict[str, tuple[str, str]] = {
    "a type that is a list": (json.dumps({"w": F32 | {"dtype": ["F32"]}}), "w at byte"),
    "a type that is not read": (json.dumps({"w": F32 | {"dtype": "F8_E4M3"}}), "w at byte"),
    "a shape of truth values": (json.dumps({"w": F32 | {"shape": [True], "data_offsets": [0, 4]}}), "w at byte"),
    "a shape of fractions": (json.dumps({"w": F32 | {"shape": [8.0]}}), "w at byte"),
    "a negative dimension": (json.dumps({"w": F32 | {"shape": [-2, -4]}}), "w at byte"),
    "a negative offset": (json.dumps({"w": F32 | {"data_offsets": [-32, 0]}}), "w at byte"),
    "offsets backwards": (json.dumps({"w": F32 | {"data_offsets": [32, 0]}}), "w at byte"),
    "offsets past the file": (json.dumps({"w": F32 | {"data_offsets": [1 << 62, (1 << 62) + 32]}}), "w at byte"),
    "dimensions that overflow": (json.dumps({"w": F32 | {"shape": [1 << 62, 8]}}), "w at byte"),
    "three offsets": (json.dumps({"w": F32 | {"data_offsets": [0, 16, 32]}}), "w at byte"),
    "tensors that overlap": (json.dumps({"v": F32, "w": F32 | {"data_offsets": [28, 60]}}), "data of w"),
    "tensors that share their bytes": (json.dumps({"v": F32, "w": F32}), "data of w"),
    "a tensor twice": (f'{{"w": {json.dumps(F32)}, "w": {json.dumps(F32)}}}', "'w' stands twice"),
    "a header of depth": ("[" * 200_000, "header at byte 8"),
    "a header that is a list": ("[1]", "header at byte 8"),
    "a tensor that is a number": ('{"w": 5}', "w at byte"),
    "a number as long as a page": ('{"w": ' + "9" * 5000 + "}", "header at byte 8"),
}


@pytest.mark.parametrize("lie", SAFETENSORS_LIES)
def test_a_safetensors_header_that_lies_is_named(lie: str, tmp_path: Path) -> None:
    header, field = SAFETENSORS_LIES[lie]
    path = tmp_path / "lie.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(64))
    with pytest.raises(InvalidModelFile) as error:
        read_safetensors(path)
    assert str(path) in str(error.value)
    assert field in str(error.value)


@pytest.mark.parametrize("size", [0, 1, 1 << 30, 1 << 62, (1 << 64) - 1])
def test_a_safetensors_header_of_a_wrong_length_is_named(size: int, tmp_path: Path) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(struct.pack("<Q", size) + b'{"w": 1}' + bytes(64))
    with pytest.raises(InvalidModelFile, match=r"lie\.safetensors: header"):
        read_safetensors(path)


FOLDER_LIES: dict[str, tuple[str, str, type[ModelLoadError]]] = {
    "a configuration of depth": ("config.json", '{"a":' * 200_000, ModelLoadError),
    "a configuration that is a list": ("config.json", "[]", ModelLoadError),
    "a window that does not fit": ("config.json", json.dumps(CONFIG | {"sliding_window": 1 << 40}), ModelLoadError),
    "half a window": ("config.json", json.dumps(CONFIG | {"sliding_window": 7.5}), ModelLoadError),
    "a head of which a part rotates": ("config.json", json.dumps(CONFIG | {"partial_rotary_factor": 0.5}), UnsupportedArchitecture),
    "a rotation that is a text": ("config.json", json.dumps(CONFIG | {"rope_scaling": "linear"}), ModelLoadError),
    "an infinite rotation": ("config.json", json.dumps(CONFIG | {"rope_theta": float("inf")}), ModelLoadError),
    "layers without number": ("config.json", json.dumps(CONFIG | {"num_hidden_layers": 1 << 31}), ModelLoadError),
    "an end that is no token": ("config.json", json.dumps(CONFIG | {"eos_token_id": [1, "2"]}), ModelLoadError),
    "a template that is a number": ("tokenizer_config.json", '{"chat_template": 5}', ModelLoadError),
    "templates that are texts without names": (
        "tokenizer_config.json",
        '{"chat_template": [{"name": "default", "template": 5}]}',
        ModelLoadError,
    ),
    "a template that is no text": ("chat_template.jinja", "\udcff\udcfe", ModelLoadError),
    "a tokenizer of nothing": ("tokenizer.json", "{}", ModelLoadError),
    "a tokenizer of depth": ("tokenizer.json", '{"model":' * 100_000, ModelLoadError),
    "a tokenizer without a model": ("tokenizer.json", '{"version": "1.0", "added_tokens": [], "model": {"type": "None"}}', ModelLoadError),
    "a generation that is a list": ("generation_config.json", "[]", ModelLoadError),
}


@pytest.mark.parametrize("lie", FOLDER_LIES)
def test_a_folder_that_lies_is_named_with_its_file(lie: str, tmp_path: Path) -> None:
    name, content, kind = FOLDER_LIES[lie]
    folder = write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG))
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(kind) as error:
        open_model(folder, None)
    assert str(folder / name) in str(error.value)


def test_templates_without_a_default_among_them_are_none(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": ["text", {"name": "tools", "template": "{{ tools }}"}]}))
    assert open_model(folder, None).chat_template is None


def test_a_tensor_in_two_files_of_a_model_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG))
    (folder / "other.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    with pytest.raises(ModelLoadError, match=r"other\.safetensors: \S+: stands in another file"):
        open_model(folder, None)


def parts_of(folder: Path, count: int) -> None:
    """Split a folder's weights into files as hubs hand out large models."""
    whole = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    for i in range(count):
        part: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = b""
        for name in list(header)[i::count]:
            first, last = header[name]["data_offsets"]
            part[name] = header[name] | {"data_offsets": [len(data), len(data) + last - first]}
            data += whole[8 + size + first : 8 + size + last]
        text = json.dumps(part).encode()
        (folder / f"model-{i + 1:05}-of-{count:05}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "model.safetensors").unlink()


def test_a_model_in_several_files_is_the_same_model_and_misses_one_that_is_gone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, random_weights(CONFIG))
    whole = open_model(folder, None)
    parts_of(folder, 3)
    parted = open_model(folder, None)
    assert parted.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(parted.tensors[name].data, tensor.data)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="missing, expected shape"):
        open_model(folder, None)
