"""Show what an environment will consist of, what is wrong with it, and what it will cost; needs no account."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inferstack.cli.output import EnvironmentName, ExitCode, Failure, Json, Project, console, print_json, project_root, read_environment
from inferstack.environment import Layer

if TYPE_CHECKING:
    from rich.tree import Tree

    from inferstack.program.plan import Plan


def register(app: typer.Typer) -> None:
    """Add the command `plan`."""
    app.command("plan")(plan)


def plan(
    name: EnvironmentName,
    layer: Annotated[Layer | None, typer.Option("--layer", help="Only this layer; by default the environment's own stacks.")] = None,
    comment: Annotated[bool, typer.Option("--comment", help="Print the comment on a pull request, in Markdown.")] = False,
    base: Annotated[Path | None, typer.Option("--base", help="`plan ENV --json` before the change (with --comment).")] = None,
    scan: Annotated[list[Path] | None, typer.Option("--scan", help="Trivy's JSON report; repeat for more (with --comment).")] = None,
    backtest: Annotated[Path | None, typer.Option("--backtest", help="`scaling backtest --json` (with --comment).")] = None,
    backtest_base: Annotated[Path | None, typer.Option("--backtest-base", help="The same before the change (with --comment).")] = None,
    project: Project = None,
    as_json: Json = False,
) -> int:
    """Run the program of ENV in this process and show resources, findings and cost. Exit code 3: a finding of severity error."""
    try:
        from inferstack.program.plan import plan_environment
        from inferstack.program.run import ProgramFailed
    except ModuleNotFoundError:
        read_environment(name, project)  # a wrong file is reported even where Pulumi is not installed
        raise
    try:
        found = plan_environment(project_root(project, name), name, layer)
    except ProgramFailed as error:
        raise Failure(str(error), path=name) from None
    if comment:
        from inferstack.delivery.files import comment_from_files
        from inferstack.delivery.plans import BadInput

        try:
            print(comment_from_files(found.to_json(), base, scan or (), backtest, backtest_base), end="")
        except BadInput as error:
            raise Failure(str(error)) from None
    elif as_json:
        print_json(found.to_json())
    else:
        show(found)
    wrong = any(finding.severity == "error" for finding in found.findings)
    return int(ExitCode.FINDINGS if wrong else ExitCode.DONE)


def show(found: "Plan") -> None:
    """Print a plan as a tree, its findings and its cost."""
    out = console()
    for tree in trees(found):
        out.print(tree)
    for finding in found.findings:
        style = {"error": "bold red", "warning": "yellow"}.get(finding.severity, "dim")
        out.print(f"{finding.severity}: ", style=style, end="")
        out.print(f"{finding.path}: {finding.message} Fix: {finding.fix} [{finding.rule}]", markup=False, soft_wrap=True)
    out.print(cost_line(found.to_json()["cost"]), markup=False, soft_wrap=True)
    count = sum(1 for item in found.resources if not item.type.startswith("inferstack:"))
    out.print(f"{count} resources, {len(found.findings)} findings, planned in {found.seconds:.1f} s", style="dim")


def cost_line(cost: Mapping[str, Any]) -> str:
    """One line with the dollars of a plan (the keys of its JSON); what is not known is said, never guessed."""
    parts = [
        _dollars(cost["hourly_usd"], "/h at rest", 2),
        _dollars(cost["monthly_usd"], "/month", 0),
        _dollars(cost["during_promotion_hourly_usd"], "/h while promoting", 2),
        _dollars(cost["at_most_hourly_usd"], "/h at most", 2),
        _dollars(cost["usd_per_million_tokens"], " per million tokens", 2),
    ]
    left_out = f"; not counted: {', '.join(cost['not_counted'])}" if cost["not_counted"] else ""
    return ", ".join(parts) + left_out


def _dollars(value: float | None, unit: str, digits: int) -> str:
    return f"unknown $ {unit.strip(' /')}" if value is None else f"${value:,.{digits}f}{unit}"


def trees(found: "Plan") -> list["Tree"]:
    """One tree per stack: components with the resources that they make."""
    from rich.text import Text
    from rich.tree import Tree

    result: list[Tree] = []
    for stack in dict.fromkeys(item.stack for item in found.resources):
        root = Tree(Text(stack, style="bold"))
        nodes: dict[str, Tree] = {}
        for item in (item for item in found.resources if item.stack == stack):
            label = Text.assemble((item.type.rpartition(":")[2], "cyan"), " ", _object_name(item.name, item.inputs))
            nodes[item.name] = nodes.get(item.parent or "", root).add(label)
        result.append(root)
    return result


def _object_name(name: str, inputs: Any) -> str:
    metadata = inputs.get("metadata")
    return str(metadata.get("name", name)) if isinstance(metadata, dict) else name
