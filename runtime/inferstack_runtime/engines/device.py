"""Where a model computes: what `engine.device` asks, what the engine can, and what the machine has.

place("auto", False, "transformers", find_gpu())     # Placement("cpu", fallback=True, reason="no NVIDIA driver: …")
"""

import ctypes
import functools
from dataclasses import dataclass
from typing import Literal

from inferstack_runtime.engines.base import ModelLoadError, Placement

Wanted = Literal["auto", "cpu", "cuda"]
_CUDA_ENGINES = frozenset({"transformers"})
"""Engines of this package that compute on a GPU; a GPU is also served by the vllm engine, in an image of its own."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Whether the machine has a CUDA device; `missing` says why not."""

    missing: str | None = None


@functools.cache
def find_gpu() -> Gpu:
    """Ask the NVIDIA driver, without torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Gpu("no NVIDIA driver: libcuda.so.1 cannot be opened")
    count = ctypes.c_int(0)
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error:
        return Gpu(f"the NVIDIA driver sees no device (CUDA error {error})")
    return Gpu() if count.value else Gpu("the NVIDIA driver sees no device")


def place(wanted: Wanted, cpu_fallback: bool, kind: str, gpu: Gpu) -> Placement:
    """Where a model of the engine `kind` computes, by `engine.device` and `engine.cpu_fallback`.

    Raises ModelLoadError where CUDA is demanded, impossible, and the CPU not allowed instead.
    """
    if wanted == "cpu":
        return Placement()
    can = kind in _CUDA_ENGINES
    missing = gpu.missing if can else f"the {kind} engine computes on the CPU"
    if missing is None:
        return Placement("cuda", reason=f"engine.device is {wanted} and the machine has a CUDA device")
    if wanted == "auto":
        return Placement(fallback=can, reason=missing)
    if cpu_fallback:
        return Placement(fallback=True, reason=missing)
    raise ModelLoadError(
        f"engine.device: is 'cuda', but {missing}; run it on a machine with a CUDA device and engine.kind transformers or vllm,"
        " set engine.device to 'auto', or allow the CPU with engine.cpu_fallback"
    )
