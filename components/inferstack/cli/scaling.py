"""Try scaling policies on a load before an environment has it, and size its replicas by what they used."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from inferstack.cli._recommend import recommend
from inferstack.cli.output import ExitCode, Failure, Json, Project, console, print_json, read_environment
from inferstack.environment import Environment

GENERATED = "generated:"


def register(app: typer.Typer) -> None:
    """Add the group `scaling`."""
    group = typer.Typer(help="Try scaling policies on a load, and size replicas by what they used.", no_args_is_help=True)
    group.callback()(_group)
    group.command("backtest")(backtest)
    group.command("recommend")(recommend)
    app.add_typer(group, name="scaling")


def _group() -> None:
    """Try scaling policies on a recorded or generated load, and size replicas by what they used."""


def backtest(
    trace: Annotated[
        str, typer.Argument(metavar="TRACE", help="CSV or JSON of seconds and requests_per_second, or generated:day|burst|ramp|steady.")
    ],
    environment: Annotated[str | None, typer.Option("--environment", help="Take bounds, targets, budget and prices from it.")] = None,
    capacity: Annotated[
        float | None,
        typer.Option("--capacity", min=0.001, help="Requests per second of a replica; by default from published figures."),
    ] = None,
    tokens: Annotated[float, typer.Option("--tokens", min=1, help="Answer tokens of a request, for published figures.")] = 200,
    peak: Annotated[float | None, typer.Option("--peak", min=0, help="Peak of a generated load; by default 60 % of all replicas.")] = None,
    hours: Annotated[float, typer.Option("--hours", min=0.1, max=720, help="Length of a generated load.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Seed of a generated load.")] = 0,
    start: Annotated[float, typer.Option("--start-seconds", min=0, help="Time until a new replica is ready.")] = 120,
    slo: Annotated[float, typer.Option("--slo-seconds", min=0, help="Longest wait that keeps the service level.")] = 5,
    price: Annotated[
        float | None, typer.Option("--replica-usd", min=0.0001, help="Price of a replica per hour; by default from the table.")
    ] = None,
    fewest: Annotated[int | None, typer.Option("--min", min=1, help="Fewest replicas.")] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="Most replicas.")] = None,
    budget: Annotated[float | None, typer.Option("--budget", min=0, help="Dollars per hour: a hard cap on replicas.")] = None,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Show replicas, cost and minutes in which the service level was missed, for each policy, on TRACE."""
    read = read_environment(environment, project)[1] if environment else None
    given = {"capacity": capacity, "hourly_usd": price, "fewest": fewest, "most": most, "budget": budget}
    asked = _request(read, {key: value for key, value in given.items() if value is not None}, tokens, start, slo)
    if trace.startswith(GENERATED):
        able = asked["replica"]["capacity"] * asked["bounds"]["most"]
        shape, top = trace.removeprefix(GENERATED), 0.6 * able if peak is None else peak
        asked["trace"] = {"shape": shape, "peak": top, "hours": hours, "seed": seed}
    else:
        try:
            asked["trace"] = {"text": Path(trace).read_text(encoding="utf-8"), "source": trace}
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"cannot read {trace}: {error}", path=trace, next_step="name a CSV or JSON file, or generated:day") from None
    report = ask(asked)
    if as_json:
        print_json(report)
    else:
        show(report)


def _request(environment: Environment | None, given: dict[str, Any], tokens: float, start: float, slo: float) -> dict[str, Any]:
    """The back-test's request without its trace. Raises Failure where a replica's capacity is unknown."""
    from inferstack.environment import Budget, Replicas, Scaling
    from inferstack.planning.cost import throughput
    from inferstack.planning.placement import gpu_group
    from inferstack.planning.savings import fixed_hourly_usd, replica_hourly_usd

    scaling, bounds, budget, fixed = Scaling(), Replicas(min=1, max=10), Budget(), None
    found: dict[str, Any] = {}
    if environment is not None:
        group = gpu_group(environment)
        scaling, budget, fixed = environment.scaling, environment.budget, fixed_hourly_usd(environment)
        bounds = group.replicas if group else environment.slots.replicas
        found = {"hourly_usd": replica_hourly_usd(environment)}
        if measured := throughput(environment):
            found["capacity"] = measured.tokens_per_second / tokens
    found = {"fewest": max(1, bounds.min), "most": bounds.max, "budget": budget.hourly_usd} | found | given
    if "capacity" not in found:
        raise Failure(
            "the requests per second of one replica are not known",
            path="--capacity",
            next_step="measure them with `inferstack bench throughput`, then give --capacity",
        )
    if found["most"] < found["fewest"]:
        raise Failure(f"--max {found['most']} is below --min {found['fewest']}", path="--max", next_step="give a --max of at least --min")
    engine = environment.engine if environment else None
    return {
        "replica": {
            "capacity": found["capacity"],
            "hourly_usd": found.get("hourly_usd"),
            "start_seconds": start,
            "queue": engine.max_queue if engine else 256,
            "gpu": bool(environment and environment.gpu),
        },
        "bounds": {"fewest": found["fewest"], "most": found["most"]},
        "budget_hourly_usd": found["budget"],
        "fixed_hourly_usd": fixed,
        "targets": {
            "queue": scaling.queue_target,
            "kv": scaling.kv_target,
            "cpu": scaling.cpu_percent / 100,
            "memory": scaling.memory_percent / 100,
            "down_seconds": scaling.down_window_seconds,
        },
        "slo_seconds": slo,
    }


def ask(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the runtime's back-test, a process of its own because the kit does not import the runtime. Raises Failure."""
    command = [sys.executable, "-m", "inferstack_runtime.autoscaler"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise Failure(done.stderr.strip(), path="TRACE", next_step="rows of seconds and requests_per_second in equal steps")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise Failure(f"the back-test failed: {last}", code=ExitCode.PLATFORM, next_step="pip install 'inferstack[local]'")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def show(report: dict[str, Any]) -> None:
    """Print a table, one line per policy."""
    from rich.table import Table

    table = Table(box=None)
    for column in ("policy", "$", "minutes missed", "mean replicas", "most", "changes", "refused"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in report["policies"]:
        dollars = "?" if row.get("cost_usd") is None else f"{row['cost_usd']:,.2f}"
        cells = [f"{row['slo_minutes_missed']:,.1f}", f"{row['mean_replicas']:.2f}", str(row["max_replicas"]), str(row["changes"])]
        table.add_row(row["policy"], dollars, *cells, f"{row['refused_requests']:,.0f}")
    out = console()
    out.print(table)
    cap = "" if report["replica_cap"] is None else f", at most {report['replica_cap']} replicas within the budget"
    out.print(f"{report['hours']:g} h, peak {report['peak_requests_per_second']:g} requests/s{cap}", style="dim")
