"""Judge rendered Kubernetes YAML by the rules of the policy pack."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inferstack.cli.output import ExitCode, Failure, Json, Project, console, print_json, project_root

if TYPE_CHECKING:
    from inferstack_policies import Resource

_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_VALUES = 1_000_000
"""Values of one document; the largest that is rendered has some thousand."""
_MOST_BYTES = 32_000_000
_MOST_LEVELS = 150
_UNKNOWN = "[unknown]"


def register(app: typer.Typer) -> None:
    """Add the group `policy`."""
    group = typer.Typer(help="Judge rendered Kubernetes YAML by the rules of the policy pack.", no_args_is_help=True)
    group.command("check")(check)
    group.command("rules")(rules)
    app.add_typer(group, name="policy")


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with rendered YAML, searched to any depth, or one file.")],
    environment: Annotated[str | None, typer.Option("--environment", help="Environment whose production flag and waivers hold.")] = None,
    registry: Annotated[list[str] | None, typer.Option("--registry", help="Prefix that images may come from; may be repeated.")] = None,
    project: Project = None,
    as_json: Json = False,
) -> int:
    """Check every object below DIR. Exit code 3: a rule of severity error is broken and not waived."""
    from dataclasses import replace

    from inferstack.environment import Waiver, load_environment
    from inferstack.program.review import context_of, finding_json, review_resources
    from inferstack_policies import Context

    resources = read_resources(folder)
    context: Context = Context()
    waivers: tuple[Waiver, ...] = ()
    if environment is not None:
        loaded = load_environment(project_root(project) / "stacks", environment)
        context, waivers = context_of(loaded), loaded.waivers
    findings = review_resources(resources, replace(context, registries=tuple(registry or ())), waivers)
    if as_json:
        print_json({"resources": len(resources), "findings": [finding_json(finding) for finding in findings]})
    else:
        out = console()
        for finding in findings:
            out.print(_printable(str(finding)), markup=False, soft_wrap=True)
        out.print(f"{len(resources)} resources, {len(findings)} findings", style="dim")
    return int(ExitCode.FINDINGS if any(finding.severity == "error" for finding in findings) else ExitCode.DONE)


def _printable(text: str) -> str:
    """One line, whatever a manifest put into its names: no line end, no sequence that moves a terminal's cursor."""
    return "".join(char if char.isprintable() else "�" for char in text)


def rules(as_json: Json = False) -> None:
    """List the rules with their severity, reason, and the scanners' ids for the same."""
    from inferstack_policies import RULES

    rows = [{"id": r.id, "severity": r.severity, "reason": r.reason, "fix": r.fix, "also": list(r.also)} for r in RULES]
    if as_json:
        print_json({"rules": rows})
        return
    out = console()
    for row in rows:
        also = f" ({', '.join(row['also'])})" if row["also"] else ""
        out.print(f"{row['severity']:8}{row['id']}: {row['reason']} {row['fix']}{also}", markup=False, soft_wrap=True)


def read_resources(path: Path) -> "list[Resource]":
    """The Kubernetes objects of a file or of all files below a folder, `List`s taken apart; raises Failure."""
    if not path.exists():
        raise Failure(f"no such file or folder: {path}", path=str(path), next_step="name what `inferstack render` wrote")
    files = _files(path) if path.is_dir() else [path]
    found = [
        resource
        for file in files
        for place, document in _documents(file)
        for resource in _resources(document, place, file.stem.encode(errors="replace").decode())
    ]
    if not found:
        raise Failure(f"no Kubernetes objects in {path}", path=str(path), next_step="name what `inferstack render` wrote")
    return found


def _files(folder: Path) -> list[Path]:
    """Files of YAML and JSON below a folder, each once, links followed; raises Failure for a link that leads nowhere."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
        seen.add(real)
        for file in (Path(here, name) for name in names if name.lower().endswith(_SUFFIXES)):
            if not file.is_file():
                raise _unreadable(str(file), "is no file, or a link that leads nowhere")
            found.setdefault(os.path.realpath(file), file)
    return sorted(found.values())


def _documents(file: Path) -> Iterator[tuple[str, Any]]:
    """(place, content) of every document of a file; a place is the file and the line where the document begins. Raises Failure."""
    import yaml

    from inferstack.environment.document import UniqueKeys

    read, text, line = b"", "", 1
    try:
        with file.open("rb") as opened:
            read = opened.read(_MOST_BYTES + 1)
        if len(read) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES // 1_000_000} MB")
        text = read.decode("utf-8-sig")
        if file.suffix.lower() == ".json":
            if text.strip():
                yield f"{file}:1", _plain(json.loads(text, object_pairs_hook=_unique), itertools.count())
            return
        loader = UniqueKeys(text)
        while loader.check_node():
            node = loader.get_node()
            line = node.start_mark.line + 1 if node else line
            document = loader.construct_document(node)
            if document is not None:
                yield f"{file}:{line}", _plain(document, itertools.count())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _unreadable(
            f"{file}:{mark.line + 1 if mark else line}", f"cannot be read as YAML: {error.problem or error.context}", text
        ) from None
    except json.JSONDecodeError as error:
        raise _unreadable(f"{file}:{error.lineno}", f"cannot be read as JSON: {error.msg}", text) from None
    except UnicodeDecodeError as error:
        raise _unreadable(f"{file}:{read[: error.start].count(10) + 1}", "is no text in UTF-8") from None
    except yaml.reader.ReaderError as error:
        raise _unreadable(f"{file}:{text[: error.position].count(chr(10)) + 1}", "holds a character that no YAML may hold") from None
    except RecursionError:
        raise _unreadable(f"{file}:{line}", "cannot be read: it is nested too deep") from None
    except OSError as error:
        raise _unreadable(str(file), f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _unreadable(f"{file}:{line}", f"cannot be read: {' '.join(str(error).split())}") from None


def _unreadable(place: str, why: str, text: str = "") -> Failure:
    template = "{{" in text
    return Failure(
        f"{place} {why}", path=place, next_step="render the template first (helm template …)" if template else "mend or remove it"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands there a second time")
        found[key] = value
    return found


def _plain(value: Any, seen: Iterator[int], level: int = 0) -> Any:
    """The value as JSON has it: keys and dates are text. Raises ValueError where anchors make it endless or huge."""
    if next(seen) > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES:,} values: an anchor names itself, or anchors multiply each other")
    if level > _MOST_LEVELS:
        raise RecursionError
    if isinstance(value, dict):
        return {str(key): _plain(item, seen, level + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, seen, level + 1) for item in value]
    if value == _UNKNOWN:
        raise ValueError(f"it holds {_UNKNOWN}, which stands for a value that is not known yet and hides what is judged")
    if isinstance(value, str):
        value.encode()  # half of a character, as JSON can write it, is a ValueError
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _resources(document: Any, place: str, name: str) -> "list[Resource]":
    from inferstack_policies import Resource

    kind, api = (document.get("kind"), document.get("apiVersion")) if isinstance(document, dict) else (None, None)
    if not (isinstance(kind, str) and isinstance(api, str) and kind.strip() and api.strip()):
        raise Failure(
            f"{place} holds a document without `apiVersion` and `kind`",
            path=place,
            next_step="remove it, or name the folder of objects only",
        )
    items = document.get("items")
    if kind == "List" or (kind.endswith("List") and isinstance(items, list)):
        if not isinstance(items, list | None):
            raise Failure(f"{place} is a {kind} whose `items` are no list", path=place, next_step="mend or remove it")
        own = {"apiVersion": api, "kind": kind.removesuffix("List")} if kind != "List" else {}
        return [resource for item in items or [] for resource in _resources(own | item if isinstance(item, dict) else item, place, name)]
    if api.startswith("kustomize.config.k8s.io/"):
        return []
    metadata = document.get("metadata")
    given = metadata.get("name") if isinstance(metadata, dict) else None
    return [Resource(f"kubernetes:{api if '/' in api else f'core/{api}'}:{kind}", str(given or name), document)]
