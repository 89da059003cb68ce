"""Start a small project that uses this package: one environment for each platform you ask for."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from inferstack.cli.output import Failure, Json, console, print_json
from inferstack.environment import Platform


def register(app: typer.Typer) -> None:
    """Add the command `init`."""
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder.")],
    platform: Annotated[
        list[Platform] | None, typer.Option("--platform", help="gke, aks, kubernetes or local; may be given again.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the Pulumi project; by default that of the folder.")] = None,
    as_json: Json = False,
) -> None:
    """Write Pulumi.yaml, a program of three lines, requirements and an environment per platform (kubernetes and local by default)."""
    project = name or re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-") or "inference"
    if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,100}", project):
        raise Failure(f"{project!r} is no project name", path="--name", next_step="use letters, digits, dots, dashes and underscores")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Failure(f"{folder} is not empty", path=str(folder), next_step="name a new or empty folder")
    wanted = list(dict.fromkeys(platform or [Platform.KUBERNETES, Platform.LOCAL]))
    written = {target: _template(source).replace("PROJECT", project) for target, source in _FILES.items()}
    written |= {f"stacks/Pulumi.{_ENVIRONMENTS[item]}.yaml": _template(f"{item}.yaml") for item in wanted}
    for target, text in written.items():
        file = folder / target
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    if as_json:
        print_json(
            {"folder": str(folder), "project": project, "files": sorted(written), "environments": [_ENVIRONMENTS[i] for i in wanted]}
        )
        return
    first = _ENVIRONMENTS[wanted[0]]
    console().print(f"{len(written)} files in {folder}", markup=False, soft_wrap=True)
    console().print(f"next: cd {folder} && pip install -r requirements.txt && inferstack plan {first}", markup=False, soft_wrap=True)


_FILES = {
    "Pulumi.yaml": "project.yaml",
    "stacks/__main__.py": "program.txt",
    "requirements.txt": "requirements.txt",
    ".gitignore": "gitignore.txt",
    "README.md": "readme.md",
}
_ENVIRONMENTS = {Platform.GKE: "dev-gke", Platform.AKS: "dev-aks", Platform.KUBERNETES: "dev", Platform.LOCAL: "local"}


def _template(name: str) -> str:
    return files("inferstack.cli").joinpath(f"templates/{name}").read_text(encoding="utf-8")
