"""Damaged models: whatever a file says, it loads or ends in a typed error that names the file; a loaded one computes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferstack_runtime import kernels
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.decoder import Decoder
from inferstack_runtime.engines.opening import open_model
from tests.runtime.engines.test_architectures import CONFIG, HIDDEN, gguf_metadata, gguf_tensors, random_weights, write_folder

WriteGguf = Callable[..., Path]
often = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

numbers = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([0, 1, -1, 3, 7, 33, 1 << 30]), st.floats(width=32))
junk = st.one_of(
    numbers, st.booleans(), st.text(max_size=8), st.lists(numbers.filter(lambda n: isinstance(n, int)), min_size=1, max_size=4)
)
words = st.lists(st.text(max_size=4), min_size=1, max_size=100)


def loads_or_names(path: Path) -> None:
    """Open, pack, and compute one row; `ModelLoadError` must name the file or what is in it."""
    named = None
    try:
        source = open_model(path, None)
        decoder = Decoder(source, "int8", context=min(32, source.shape.context), threads=1)
        decoder.allocate_cache(1)
    except ModelLoadError as error:
        named = str(error)
    if named is not None:
        assert str(path) in named
        return
    specs, results = np.zeros(1, kernels.SAMPLE_SPEC), np.zeros(1, kernels.SAMPLE_RESULT)
    specs["target"], specs["alternatives"], specs["repetition"] = -1, -1, 1
    segments = np.array([(0, 0, 1)], kernels.SEGMENT)
    decoder.step(np.zeros(1, np.int32), np.zeros(1, np.int32), segments, np.zeros((1, 1), np.int32), specs, results)
    decoder.close()
    source.tokenizer.encode("some text")
    assert all(0 <= token < source.shape.vocabulary for token in source.end_tokens)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", ["llama"], "general.architecture: is ['llama']"),
        ("llama.block_count", 1 << 30, "number of layers: is 1073741824, the model has 21 tensors"),
        ("llama.attention.head_count", 0, "llama.attention.head_count: is 0, expected a number of at least 1"),
        ("llama.attention.head_count", 2.5, "llama.attention.head_count: is 2.5, expected a whole number"),
        ("llama.rope.freq_base", 0.0, "llama.rope.freq_base: is 0.0"),
        ("tokenizer.ggml.tokens", [1, 2], "tokenizer.ggml.tokens: holds 1"),
        ("tokenizer.ggml.merges", ["! nothing"], "tokenizer.ggml.tokens and merges: not a tokenizer"),
        ("tokenizer.ggml.pre", 5, "tokenizer.ggml.pre: is 5, expected a name"),
        ("tokenizer.ggml.eos_token_id", 4000, "tokenizer.ggml.eos_token_id: is 4000, expected the number of one of 90 tokens"),
        ("tokenizer.ggml.bos_token_id", "first", "tokenizer.ggml.bos_token_id: is 'first'"),
        ("tokenizer.chat_template", 7, "tokenizer.chat_template: is 7, expected a text"),
        ("tokenizer.ggml.add_bos_token", "yes", "tokenizer.ggml.add_bos_token: is 'yes', expected true or false"),
        ("tokenizer.ggml.token_type", [1, 1], "tokenizer.ggml.token_type: has 2 entries, expected 90"),
        ("tokenizer.ggml.model", 3, "tokenizer.ggml.model: is 3, expected 'gpt2' or 'llama'"),
        ("tokenizer.ggml.model", "t5", "tokenizer.ggml.model: is 't5', expected 'gpt2' or 'llama'"),
        ("llama.attention.sliding_window", -3, "llama.attention.sliding_window: is -3"),
        ("llama.attention.sliding_window", float(1 << 40), "llama.attention.sliding_window: is 1099511627776.0"),
        ("llama.embedding_length", 1 << 31, "llama.embedding_length: is 2147483648"),
        ("llama.attention.key_length", 0, "llama.attention.key_length: is 0"),
        ("llama.context_length", "long", "llama.context_length: is 'long'"),
        ("llama.rope.scaling.type", "yarn", "llama.rope.scaling.type: is 'yarn'"),
        ("llama.attention.head_count", [4, 4], "llama.attention.head_count: is [4, 4]"),
    ],
)
def test_a_field_that_cannot_be_is_named(write_gguf: WriteGguf, key: str, value: object, message: str) -> None:
    path = write_gguf(gguf_metadata("llama") | {key: value}, gguf_tensors("llama", random_weights(CONFIG)))
    with pytest.raises(ModelLoadError) as error:
        open_model(path, None)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_padding_that_a_file_does_not_have_is_no_error(write_gguf: WriteGguf) -> None:
    metadata = gguf_metadata("llama") | {"tokenizer.ggml.padding_token_id": -1, "tokenizer.ggml.eos_token_id": 3}
    source = open_model(write_gguf(metadata, gguf_tensors("llama", random_weights(CONFIG))), None)
    assert source.end_tokens == {3}
    assert source.special_tokens.keys() == {"eos_token"}


@pytest.mark.slow
@often
@given(data=st.data())
def test_any_metadata_of_a_gguf_file(write_gguf: WriteGguf, data: st.DataObject) -> None:
    metadata = gguf_metadata("llama") | {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    for key in data.draw(st.lists(st.sampled_from(sorted(metadata)), min_size=1, max_size=3)):
        metadata[key] = data.draw(st.one_of(junk, words))
    loads_or_names(write_gguf(metadata, gguf_tensors("llama", random_weights(CONFIG))))


@pytest.mark.slow
@often
@given(data=st.data())
def test_any_shape_and_type_of_a_tensor(write_gguf: WriteGguf, data: st.DataObject) -> None:
    tensors: dict[str, Any] = dict(gguf_tensors("llama", random_weights(CONFIG)))
    name = data.draw(st.sampled_from(sorted(tensors)))
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 31, 32, HIDDEN, 90, 96, 256]), min_size=1, max_size=3)))
    tensors[name] = (data.draw(st.sampled_from([0, 1, 2, 8, 12, 14, 30, 99])), shape, bytes(4 * int(np.prod(shape))))
    loads_or_names(write_gguf(gguf_metadata("llama"), tensors))


@pytest.mark.slow
@often
@given(data=st.data())
def test_a_cut_or_changed_gguf_file(write_gguf: WriteGguf, data: st.DataObject) -> None:
    path = write_gguf(gguf_metadata("llama"), gguf_tensors("llama", random_weights(CONFIG)))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    loads_or_names(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("damage") / "model", CONFIG, random_weights(CONFIG))


@pytest.mark.slow
@often
@given(data=st.data())
def test_any_configuration_of_a_folder(folder: Path, data: st.DataObject) -> None:
    config = CONFIG | {"rope_scaling": None, "sliding_window": None, "torch_dtype": "bfloat16"}
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[key] = data.draw(st.one_of(junk.filter(lambda value: value == value), st.none(), st.dictionaries(st.text(max_size=6), junk)))
    try:
        (folder / "config.json").write_text(json.dumps(config))
        loads_or_names(folder)
    finally:
        (folder / "config.json").write_text(json.dumps(CONFIG))


@pytest.mark.slow
@often
@given(data=st.data())
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_cut_or_changed_file_of_a_folder(folder: Path, name: str, data: st.DataObject) -> None:
    whole = (folder / name).read_bytes()
    content = bytearray(whole)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, min(len(content) - 1, 3000)))] = data.draw(st.integers(0, 255))
    try:
        (folder / name).write_bytes(content)
        loads_or_names(folder)
    finally:
        (folder / name).write_bytes(whole)
