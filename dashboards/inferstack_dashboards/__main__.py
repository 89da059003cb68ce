"""Write the generated files, or say which are out of date.  python -m inferstack_dashboards [--check] [FOLDER]"""

import argparse
import sys
from pathlib import Path

from inferstack_dashboards.output import files

FOLDER = Path(__file__).parents[1]
_KINDS = ("grafana/*.json", "rules/*.yaml")


def stale(folder: Path) -> list[str]:
    """Paths under `folder` that differ from what would be written, or should not be there."""
    wanted = files()
    there = {str(path.relative_to(folder)) for kind in _KINDS for path in folder.glob(kind)}
    wrong = {path for path, text in wanted.items() if path not in there or (folder / path).read_text(encoding="utf-8") != text}
    return sorted(wrong | (there - set(wanted)))


def write(folder: Path) -> list[str]:
    """Write what is stale, remove what nobody generates any more; returns the paths."""
    changed, wanted = stale(folder), files()
    for path in changed:
        if path in wanted:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(wanted[path], encoding="utf-8")
        else:
            (folder / path).unlink()
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m inferstack_dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file is out of date")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    options = parser.parse_args()
    changed = stale(options.folder) if options.check else write(options.folder)
    for path in changed:
        print(f"{'out of date' if options.check else 'wrote'}: {options.folder / path}")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
