"""docs/promotion-report.md and its plots, from measured figures alone."""

from pathlib import Path
from typing import Any


def write(known: dict[str, Any], docs: Path) -> None: ...
