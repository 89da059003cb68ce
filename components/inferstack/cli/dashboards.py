"""Where the boards of an environment are."""

import json
import webbrowser
from typing import Annotated, Any

import typer

from inferstack.cli.output import EnvironmentName, Failure, Json, Project, console, print_json, project_root, read_environment
from inferstack.environment import Environment, Platform


def register(app: typer.Typer) -> None:
    """Add the group `dashboards`."""
    group = typer.Typer(help="List the boards of the project, and say where an environment shows them.", no_args_is_help=True)
    group.command("list")(list_boards)
    group.command("open")(open_boards)
    app.add_typer(group, name="dashboards")


def list_boards(project: Project = None, as_json: Json = False) -> None:
    """Print the boards: title, what they show, and the file for Grafana's import."""
    folder = project_root(project) / "dashboards" / "grafana"
    boards = [json.loads(path.read_text(encoding="utf-8")) | {"file": str(path)} for path in sorted(folder.glob("*.json"))]
    if not boards:
        raise Failure(f"no boards in {folder}", path=str(folder), next_step="write them: python -m inferstack_dashboards")
    rows = [{key: board[key] for key in ("uid", "title", "description", "file")} for board in boards]
    if as_json:
        print_json({"boards": rows})
        return
    for row in rows:
        console().print(f"{row['title']}: {row['description']}\n  {row['file']}", markup=False, soft_wrap=True)


def open_boards(
    name: EnvironmentName,
    browser: Annotated[bool, typer.Option("--browser", help="Open the address in a browser.")] = False,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Print, or open, the address at which ENV shows its boards, and how to get there."""
    _, environment = read_environment(name, project)
    found = place(environment)
    if as_json:
        print_json({"environment": name, **found})
        return
    for line in (*found["commands"], *([found["url"]] if found["url"] else []), found["note"]):
        console().print(line, markup=False, soft_wrap=True)
    if browser and found["url"]:
        webbrowser.open(found["url"])


def place(environment: Environment) -> dict[str, Any]:
    """`commands` to type first, `url` where there is one, and a `note`."""
    kubectl = f"kubectl -n {environment.namespace}"
    if environment.platform is Platform.LOCAL:
        note = "Grafana is not part of a local environment; the console shows slots, cost and alerts: inferstack console"
        return {"commands": [], "url": None, "note": note}
    if environment.monitoring.backend == "bundled":
        password = f"{kubectl} get secret inferstack-grafana -o jsonpath='{{.data.admin-password}}' | base64 -d"
        commands = [f"{kubectl} port-forward service/inferstack-grafana 3000 &", password]
        return {
            "commands": commands,
            "url": "http://127.0.0.1:3000/d/inferstack-overview",
            "note": "user admin, the password is printed above",
        }
    if environment.monitoring.backend == "none":
        return {"commands": [], "url": None, "note": "monitoring.backend is none; import the files of `inferstack dashboards list`"}
    note = "the boards are ConfigMaps with the label grafana_dashboard=1: a Grafana with the sidecar loads them"
    return {"commands": [f"{kubectl} get configmap -l grafana_dashboard=1"], "url": None, "note": note}
