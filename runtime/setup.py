"""Build of the package; the CPU kernels are compiled here, once per instruction set, as plain shared libraries for ctypes."""

import platform
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("inferstack_runtime/kernels")
COMMON = [
    "-std=c++17",
    "-O3",
    "-pthread",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-maybe-uninitialized",  # of the compiler's own headers
    "-Wno-uninitialized",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mprefer-vector-width=512"]
X86 = {"avx2": AVX2, "avxvnni": [*AVX2, "-mavxvnni"], "avx512vnni": AVX512}
VARIANTS = {"portable": []} | (X86 if platform.machine() in ("x86_64", "AMD64") else {})


class BuildKernels(build_ext):
    """Names a library `_VARIANT.so`: it holds no Python module, so it fits every Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"

    def get_export_symbols(self, ext: Any) -> list[str]:
        return []


setup(
    ext_modules=[
        Extension(
            f"inferstack_runtime.kernels._{variant}",
            sources=[str(KERNELS / "library.cpp")],
            depends=[str(path) for path in sorted(Path(__file__).parent.glob(f"{KERNELS}/*.h"))],
            language="c++",
            extra_compile_args=COMMON + flags,
            extra_link_args=["-pthread"],
            optional=variant == "avxvnni",  # compilers know it since GCC 11 and Clang 12
        )
        for variant, flags in VARIANTS.items()
    ],
    cmdclass={"build_ext": BuildKernels},
)
