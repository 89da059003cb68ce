"""`inferstack scaling recommend`: asks a Prometheus what replicas used, and says what they should request."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inferstack.cli.output import EnvironmentName, ExitCode, Failure, Json, Project, console, print_json, read_environment
from inferstack.environment import ENGINE_IMAGES

if TYPE_CHECKING:
    from inferstack.planning.placement import Group
    from inferstack.planning.rightsize import Used

_OF_GROUP = 'and on (instance) last_over_time(inferstack_identity_info{{environment="{environment}",model=~"{models}"}}[{window}])'
USED = {
    "cpu_cores": 'max(quantile_over_time(0.95, rate(process_cpu_seconds_total{{environment="{environment}"}}[5m])[{window}:5m]) '
    + f"{_OF_GROUP})",
    "memory_bytes": f'max(max_over_time(process_resident_memory_bytes{{{{environment="{{environment}}"}}}}[{{window}}]) {_OF_GROUP})',
    "seconds": f'max(300 * count_over_time(process_resident_memory_bytes{{{{environment="{{environment}}"}}}}[{{window}}:5m]) {_OF_GROUP})',
}
"""What is asked of the busiest replica of a group, so that every figure can be repeated."""


def recommend(
    name: EnvironmentName,
    prometheus: Annotated[
        str | None, typer.Option("--prometheus", help="Address to measure with; by default `monitoring.prometheus_url`.")
    ] = None,
    window: Annotated[str, typer.Option("--window", help="How far to look back, as Prometheus writes it (1d, 12h).")] = "7d",
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Recommend CPU and memory requests of a replica from what the replicas of ENV used. Another GPU is a promotion, not asked here."""
    from inferstack.planning import placement
    from inferstack.planning.rightsize import recommend as sized

    environment = read_environment(name, project)[1]
    address = prometheus or environment.monitoring.prometheus_url
    if address is None:
        raise Failure("no Prometheus to ask", path="--prometheus", next_step="give --prometheus, or set monitoring.prometheus_url")
    if re.fullmatch(r"[1-9][0-9]{0,4}[smhdw]", window) is None:
        raise Failure(f"{window!r} is no length of time", path="--window", next_step="write it as 7d, 12h or 90m")
    if environment.engine.kind in ENGINE_IMAGES:
        raise Failure(
            f"what a replica of engine.kind {environment.engine.kind} uses is not in its metrics: its work is done by child processes",
            path="engine.kind",
            next_step="ask a Vertical Pod Autoscaler in mode Off, which reads the containers",
        )
    rows = []
    for path, groups in _by_section(placement.groups(environment)).items():
        asked, used = _used(address, name, window, groups)
        try:
            found = sized(environment, groups[0], used)
        except ValueError as error:
            raise Failure(str(error), path=address, next_step="run longer, or look further back with --window") from None
        rows.append({"group": path, **asdict(found), "set": found.changes, "used": asdict(used), "queries": asked})
    if as_json:
        print_json({"environment": name, "window": window, "recommendations": rows})
        return
    for row in rows:
        _show_size(name, row)


def _by_section(groups: "Sequence[Group]") -> "dict[str, list[Group]]":
    """The groups of replicas by the section that sizes them: without one of its own the quality tier's is that of the other."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.path, []).append(group)
    return found


def _used(address: str, name: str, window: str, groups: "list[Group]") -> "tuple[dict[str, str], Used]":
    """(queries, answers) of the busiest replica of some groups; raises Failure where there are none."""
    from inferstack.cli._prometheus import Unreachable, number
    from inferstack.planning.rightsize import Used

    models = "|".join(re.escape(model.name) for group in groups for _, model in group.models).replace("\\", "\\\\")
    asked = {key: query.format(environment=name, models=models, window=window) for key, query in USED.items()}
    try:
        found = {key: number(address, query) for key, query in asked.items()}
    except Unreachable as error:
        raise Failure(str(error), code=ExitCode.PLATFORM, path=address, next_step="check the address") from None
    if missing := [key for key, value in found.items() if value is None]:
        message = f"{address} knows nothing of the replicas of {name} ({', '.join(missing)})"
        raise Failure(message, path=address, next_step="let it scrape the slots for an hour")
    return asked, Used(**{key: value for key, value in found.items() if value is not None})


def _show_size(name: str, row: dict[str, Any]) -> None:
    out = console()
    out.print(f"{row['path']}.resources: cpu {row['now_cpu']} → {row['cpu']}, memory {row['now_memory']} → {row['memory']}", markup=False)
    out.print(f"  {row['why']}", markup=False, soft_wrap=True)
    if row["saves_hourly_usd"]:
        out.print(f"  saves ${row['saves_hourly_usd']:,.4f}/h per replica", markup=False)
    if row["set"] and row["path"] == "slots":
        changes = " ".join(f"--set {key.replace('slots.', 'slot.')}={value}" for key, value in row["set"].items())
        out.print(f"  inferstack promote {name} {changes}", markup=False, soft_wrap=True)
