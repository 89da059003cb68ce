"""Write the Kubernetes objects of an environment as files, for Argo CD, Flux or kubectl."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from inferstack.cli.output import EnvironmentName, ExitCode, Failure, Json, Project, console, print_json, project_root
from inferstack.environment import Layer


def register(app: typer.Typer) -> None:
    """Add the command `render`."""
    app.command("render")(render)


def render(
    name: EnvironmentName,
    out: Annotated[Path, typer.Option("--out", help="Folder of the files; empty, new, or of an earlier rendering.")],
    layer: Annotated[Layer | None, typer.Option("--layer", help="Only this layer; by default the environment's own stacks.")] = None,
    outputs: Annotated[
        Path | None, typer.Option("--outputs", help="Outputs of the platform stack, as `pulumi stack output --json` prints them.")
    ] = None,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Write one file per object and a kustomization; Secrets are never written, only named.

    Apply them with `kubectl apply --server-side -k DIR`. After the first time, `spec.rules` of the route belongs to the promotion:
    a controller that applies the folder again must be told to leave that field alone.
    """
    from inferstack.environment import load_environment
    from inferstack.planning import plan_findings
    from inferstack.program.render import NotRenderable, render_environment, write
    from inferstack.program.run import ProgramFailed

    root = project_root(project)
    environment = load_environment(root / "stacks", name)
    errors = [str(finding) for finding in plan_findings(environment) if finding.severity == "error"]
    if errors:
        raise Failure(
            "\n".join(errors).removeprefix("error: "),
            code=ExitCode.FINDINGS,
            path=name,
            next_step=f"`inferstack plan {name}` shows every finding",
        )
    try:
        rendered = render_environment(root, name, environment, layer, _read(outputs))
        write(rendered, out)
    except NotRenderable as error:
        raise Failure(
            f"{name}: {error}",
            path=error.paths[0],
            next_step="bring the platform stack up, then pass what `pulumi stack output --json` prints as --outputs FILE",
        ) from None
    except ProgramFailed as error:
        raise Failure(str(error), path=name) from None
    except FileExistsError as error:
        raise Failure(str(error), path=str(out), next_step="name another folder with --out, or empty this one") from None
    except OSError as error:
        raise Failure(f"{out}: {error.strerror}", code=ExitCode.PLATFORM, path=str(out)) from None
    if as_json:
        print_json(
            {
                "environment": name,
                "folder": str(out),
                "files": sorted(rendered.files),
                "secrets": list(rendered.secrets),
                "charts": list(rendered.charts),
            }
        )
        return
    console().print(f"{len(rendered.files)} files in {out}", markup=False, soft_wrap=True)
    for secret in rendered.secrets:
        console().print(f"needs the Secret {secret}, which is not written", style="yellow", markup=False, soft_wrap=True)
    for chart in rendered.charts:
        console().print(f"needs the chart {chart}, which `pulumi up` installs", style="yellow", markup=False, soft_wrap=True)


def _read(outputs: Path | None) -> dict[str, Any] | None:
    if outputs is None:
        return None
    try:
        found = json.loads(outputs.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"{outputs}: {error}", path=str(outputs), next_step="write it with: pulumi stack output --json") from None
    if not isinstance(found, dict):
        raise Failure(f"{outputs}: expected one JSON object", path=str(outputs), next_step="write it with: pulumi stack output --json")
    return found
