"""Judge rendered Kubernetes YAML by the rules of the policy pack."""

import itertools
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
            out.print(str(finding), markup=False, soft_wrap=True)
        out.print(f"{len(resources)} resources, {len(findings)} findings", style="dim")
    return int(ExitCode.FINDINGS if any(finding.severity == "error" for finding in findings) else ExitCode.DONE)


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
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _SUFFIXES and f.is_file()) if path.is_dir() else [path]
    found = [resource for file in files for document in _documents(file) for resource in _resources(document, file)]
    if not found:
        raise Failure(f"no Kubernetes objects in {path}", path=str(path), next_step="name what `inferstack render` wrote")
    return found


def _documents(file: Path) -> list[Any]:
    import yaml

    from inferstack.environment.document import UniqueKeys

    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":  # JSON is YAML but for tabs, which stand between its values only
            text = text.replace("\t", " ")
        documents = [document for document in yaml.load_all(text, Loader=UniqueKeys) if document is not None]
        return [_plain(document, itertools.count()) for document in documents]
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise Failure(f"{file} cannot be read as YAML: {error}", path=str(file), next_step="mend or remove it") from None


def _plain(value: Any, seen: Iterator[int]) -> Any:
    """The value as JSON has it: keys and dates are text. Raises ValueError where anchors make it endless or huge."""
    if next(seen) > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES:,} values: an anchor names itself, or anchors multiply each other")
    if isinstance(value, dict):
        return {str(key): _plain(item, seen) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, seen) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _resources(document: Any, file: Path) -> "list[Resource]":
    from inferstack_policies import Resource

    if not isinstance(document, dict) or not isinstance(document.get("kind"), str) or not isinstance(document.get("apiVersion"), str):
        raise Failure(
            f"{file} holds a document without `apiVersion` and `kind`",
            path=str(file),
            next_step="remove it, or name the folder of objects only",
        )
    if document["kind"] == "List" or (document["kind"].endswith("List") and isinstance(document.get("items"), list)):
        own = {"apiVersion": document["apiVersion"], "kind": document["kind"].removesuffix("List")} if document["kind"] != "List" else {}
        items = [own | item if isinstance(item, dict) else item for item in document.get("items") or []]
        return [resource for item in items for resource in _resources(item, file)]
    if document["apiVersion"].startswith("kustomize.config.k8s.io/"):
        return []
    api = document["apiVersion"] if "/" in document["apiVersion"] else f"core/{document['apiVersion']}"
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return [Resource(f"kubernetes:{api}:{document['kind']}", str(name or file.stem), document)]
