"""The pipeline's JSON files, read with errors that name the file."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from inferstack.delivery.comment import render_comment
from inferstack.delivery.plans import BadInput


def read_json(file: Path) -> Any:
    """The parsed content of `file`; raises BadInput when it cannot be read or is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: expected JSON: {error}") from None


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; raises BadInput."""
    parsed = read_json(file)
    if not isinstance(parsed, dict):
        raise BadInput(f"{file}: expected a JSON object, found a {type(parsed).__name__}")
    return parsed


def comment_from_files(
    plan: Mapping[str, Any], base: Path | None, scans: Iterable[Path], backtest: Path | None, backtest_base: Path | None
) -> str:
    """The comment of `plan`, with what the given files add; a scan is called by its file's name. Raises BadInput."""
    return render_comment(
        plan,
        base=read_object(base) if base else None,
        scans={file.stem: read_object(file) for file in scans},
        backtest=read_object(backtest) if backtest else None,
        backtest_base=read_object(backtest_base) if backtest_base else None,
    )
