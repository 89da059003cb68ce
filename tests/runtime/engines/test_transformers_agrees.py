"""Every served architecture against transformers: small random models, from safetensors and from GGUF, in float arithmetic."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferstack_runtime.engines.opening import open_model
from tests.runtime.engines.test_architectures import (
    CASES,
    CONFIG,
    TOKENS,
    Weights,
    gguf_metadata,
    gguf_tensors,
    logits_of,
    random_weights,
    write_folder,
)

pytestmark = pytest.mark.reference
REFERENCE = Path(__file__).parents[1] / "reference"
PYTHON = REFERENCE.parents[2] / ".venv-reference/bin/python"
GGUF_NAMES = {"llama": "llama", "llama tied": "llama", "linear rope": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Cases that a GGUF file can state, and the architecture that it names."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any], Weights]]:
    """Folder, configuration and weights of each case; the folder holds what transformers computed from it."""
    if not PYTHON.exists():
        pytest.skip("no reference environment: scripts/setup reference")
    root = tmp_path_factory.mktemp("architectures")
    (root / "tokens.json").write_text(json.dumps(TOKENS))
    made = {}
    for case, changes in CASES.items():
        config = CONFIG | changes
        architecture = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[config["model_type"]]
        weights = random_weights(config)
        named = config | {"architectures": [f"{architecture}ForCausalLM"], "hidden_act": "silu"}
        made[case] = (write_folder(root / case.replace(" ", "-"), named, weights), config, weights)
    command = [str(PYTHON), str(REFERENCE / "logits.py"), str(root / "tokens.json"), *(str(folder) for folder, _, _ in made.values())]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return made


def compare(actual: np.ndarray, folder: Path) -> None:
    expected = np.load(folder / "logits.npy")
    np.testing.assert_allclose(actual, expected, atol=3e-4 * np.abs(expected).max())
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("case", CASES)
def test_logits_from_safetensors_are_those_of_transformers(case: str, models: dict[str, tuple[Path, dict[str, Any], Weights]]) -> None:
    folder, _, _ = models[case]
    compare(logits_of(open_model(folder, None), TOKENS, [40, 1, 34]), folder)


@pytest.mark.parametrize("case", GGUF_NAMES)
def test_logits_from_gguf_are_those_of_transformers(
    case: str, models: dict[str, tuple[Path, dict[str, Any], Weights]], write_gguf: Callable[..., Path]
) -> None:
    folder, config, weights = models[case]
    architecture = GGUF_NAMES[case]
    metadata = gguf_metadata(architecture)
    if case == "mistral":
        metadata[f"{architecture}.attention.sliding_window"] = config["sliding_window"]
    if case == "linear rope":
        metadata |= {f"{architecture}.rope.scaling.type": "linear", f"{architecture}.rope.scaling.factor": 2.0}
    compare(logits_of(open_model(write_gguf(metadata, gguf_tensors(architecture, weights)), None), TOKENS, [75]), folder)
