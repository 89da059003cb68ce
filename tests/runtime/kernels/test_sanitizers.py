"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and the step under ThreadSanitizer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from inferstack_runtime import kernels

HERE = Path(__file__).parent
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avxvnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "avx512vnni": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"],
}
COMPILER = os.environ.get("CXX", "c++")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
@pytest.mark.parametrize("variant", kernels.supported())
def test_no_sanitizer_finds_anything(variant: str, sanitizers: str, tmp_path: Path) -> None:
    program = tmp_path / "sanitize"
    command = [COMPILER, "-std=c++17", "-O1", "-g", "-w", "-pthread", "-ffp-contract=off", f"-fsanitize={sanitizers}"]
    command += [
        "-fno-sanitize-recover=all",
        *FLAGS[variant],
        f"-I{Path(kernels.__file__).parent}",
        str(HERE / "sanitize.cpp"),
        "-o",
        str(program),
    ]
    subprocess.run(command, check=True, timeout=600)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "clean"), result.stderr[-4000:]
