"""What the native engine does not serve goes to transformers with a line in the log, or ends in an error that says what to install."""

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inferstack_runtime.engines import registry
from inferstack_runtime.engines.base import ModelLoadError
from tests.runtime.engines.conftest import ENGINE
from tests.runtime.engines.test_architectures import edited, random_weights, write_folder

UNSERVED = {
    "model_type: is 'gemma'": edited(model_type="gemma"),
    "rope_scaling: is 'yarn'": edited(rope_scaling={"rope_type": "yarn", "factor": 4.0}),
    "rope_scaling: is 'dynamic'": edited(rope_scaling={"type": "dynamic", "factor": 4.0}),
    "partial_rotary_factor: is 0.25": edited(partial_rotary_factor=0.25),
    "hidden_act: is 'gelu'": edited(hidden_act="gelu"),
    "quantization_config": edited(quantization_config={"quant_method": "gptq"}),
    "layer_types: layers with and without": edited(layer_types=["full_attention", "sliding_attention"], sliding_window=8),
}


def load(folder: Path) -> Any:
    model = SimpleNamespace(name="small", source=f"file://{folder}", digest=None, quantization="none", context=64)
    return registry.load_model(model, SimpleNamespace(**ENGINE), folder.parent / "weights")


@pytest.mark.parametrize("reason", UNSERVED)
@pytest.mark.parametrize("installed", [True, False])
def test_what_is_not_served_here_goes_on_with_its_reason(
    reason: str, installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "model", UNSERVED[reason], random_weights(edited()))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None if name in ("torch", "transformers") else find(name))
    monkeypatch.setattr(registry, "_load_transformers", lambda *_: "served by transformers")
    if installed:
        with caplog.at_level(logging.WARNING):
            assert load(folder) == "served by transformers"
        assert f"small is served by the slower transformers engine: {folder}" in caplog.text
        assert reason in caplog.text
    else:
        with pytest.raises(ModelLoadError, match="pip install 'inferstack-runtime") as error:
            load(folder)
        assert reason in str(error.value)
