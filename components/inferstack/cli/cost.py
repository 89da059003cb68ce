"""What an environment costs, by pool, slot and model, per million tokens, and what would be cheaper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from inferstack.cli.output import EnvironmentName, Failure, Json, Project, console, print_json, read_environment
from inferstack.environment import Environment, Platform


def register(app: typer.Typer) -> None:
    """Add the command `cost`."""
    app.command("cost")(cost)


def cost(
    name: EnvironmentName,
    prometheus: Annotated[
        str | None, typer.Option("--prometheus", help="Address to measure with; by default `monitoring.prometheus_url`.")
    ] = None,
    log: Annotated[
        list[Path] | None, typer.Option("--log", help="Log of a runtime, for the tenants' shares; may be repeated. `local` finds its own.")
    ] = None,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Show dollars per hour and month by pool, slot, model and tenant, dollars per million tokens, and what would save how much."""
    root, environment = read_environment(name, project)
    report = cost_report(name, environment, prometheus or environment.monitoring.prometheus_url, _logs(root, name, environment, log))
    if as_json:
        print_json(report)
    else:
        show(report)


def _logs(root: Path, name: str, environment: Environment, given: list[Path] | None) -> list[Path]:
    """The logs to read; raises Failure where a given one is not there."""
    if given is None and environment.platform is Platform.LOCAL:
        return sorted((root / ".inferstack" / name / "logs").glob("slot-*.log"))
    for path in given or ():
        if not path.is_file():
            raise Failure(f"no log at {path}", path=str(path), next_step="kubectl logs of the slots' pods writes one")
    return given or []


def cost_report(name: str, environment: Environment, prometheus: str | None, logs: Sequence[Path] = ()) -> dict[str, Any]:
    """The object of `cost --json`. `measured` is None without a Prometheus that answers; `measured_error` says why."""
    from inferstack.planning import cost as planned_cost
    from inferstack.planning.savings import fixed_hourly_usd, replica_hourly_usd, savings

    planned, replica = planned_cost(environment), replica_hourly_usd(environment)
    measured, error = _measure(prometheus, replica, fixed_hourly_usd(environment))
    replicas = measured["replicas"] if measured else _replicas_at_rest(environment)
    tokens = measured["tokens_per_second"] if measured else {}
    return {
        "environment": name,
        "hourly_usd": planned.hourly_usd,
        "monthly_usd": planned.monthly_usd,
        "during_promotion_hourly_usd": planned.during_promotion_hourly_usd,
        "at_most_hourly_usd": planned.at_most_hourly_usd,
        "usd_per_million_tokens": planned.usd_per_million_tokens,
        "replica_hourly_usd": replica,
        "budget": {"hourly_usd": environment.budget.hourly_usd, "monthly_usd": environment.budget.monthly_usd},
        "slots": {slot: {"replicas": count, "hourly_usd": _times(replica, count)} for slot, count in replicas.items()},
        "models": _models(environment, replica, replicas, tokens),
        "tenants": _tenants(logs, _times(replica, sum(replicas.values()))),
        "measured": measured,
        "measured_error": error,
        "recommendations": [
            {"kind": s.kind, "set": s.settings, "saves_hourly_usd": s.hourly_usd, "saves_monthly_usd": s.monthly_usd, "but": s.but}
            for s in savings(environment)
        ],
        "opencost": [
            {
                "metric": "node_total_hourly_cost",
                "labels": {"pool": line.name, "instance": line.what},
                "value": line.price.hourly_usd,
                "nodes": line.at_rest,
                "source": line.price.source,
                "date": line.price.date,
            }
            for line in planned.lines
            if line.price is not None and line.price.date is not None  # a table's machines; what an environment states is a replica's
        ],
        "not_counted": list(planned.not_counted),
    }


def _replicas_at_rest(environment: Environment) -> dict[str, float]:
    """Replicas of each slot at the least load."""
    live = environment.slots.initial
    return {str(live): environment.slots.replicas.min, str(live.other): environment.slots.idle_replicas}


def _tenants(logs: Sequence[Path], spent: float | None) -> list[dict[str, Any]]:
    """Each tenant's share of the replicas' price, by the tokens that engines generated for it."""
    from inferstack.planning.tenants import share, usage

    lines = (line for path in logs for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [
        {
            "tenant": one.tenant,
            "answers": one.answers,
            "prompt_tokens": one.prompt,
            "generated_tokens": one.engine,
            "cached_tokens": one.cached,
            "share": round(part, 4),
            "hourly_usd": None if hourly is None else round(hourly, 6),
        }
        for one, part, hourly in share(usage(lines), spent)
    ]


def _models(environment: Environment, replica: float | None, replicas: dict[str, float], tokens: dict[str, float]) -> list[dict[str, Any]]:
    """Each model's share of the replicas' price: by measured tokens, else by the weights of its tier."""
    spent = _times(replica, sum(replicas.values()))
    keys = {model.name: tokens.get(model.name, 0.0) for model in environment.models}
    by = "tokens"
    if not sum(keys.values()):
        keys, by = {model.name: float(model.weight) for model in environment.models}, "weight"
    whole = sum(keys.values()) or 1.0
    found = []
    for model in environment.models:
        hourly = None if spent is None else round(spent * keys[model.name] / whole, 6)
        per_million = hourly / (keys[model.name] * 3600) * 1e6 if hourly is not None and by == "tokens" and keys[model.name] else None
        row = {"model": model.name, "quantization": model.quantization, "share": round(keys[model.name] / whole, 4), "shared_by": by}
        found.append(row | {"hourly_usd": hourly, "usd_per_million_tokens": None if per_million is None else round(per_million, 6)})
    return found


QUERIES = {
    "replicas": "count by (slot) (inferstack_ready)",
    "tokens_per_second": "sum by (model) (rate(inferstack_generated_tokens_total[1h]))",
    "cached_share": 'sum(rate(inferstack_served_tokens_total{source!="engine"}[1h])) / (sum(rate(inferstack_served_tokens_total[1h])) > 0)',
    "batch_size": "sum(rate(inferstack_batch_size_sum[1h])) / (sum(rate(inferstack_batch_size_count[1h])) > 0)",
}
"""What is asked, so that every figure can be repeated."""


def _measure(address: str | None, replica: float | None, fixed: float | None) -> tuple[dict[str, Any] | None, str | None]:
    from inferstack.cli._prometheus import Unreachable, number, vector

    if address is None:
        return None, "no Prometheus: set monitoring.prometheus_url or --prometheus"
    try:
        replicas = {labels.get("slot", ""): value for labels, value in vector(address, QUERIES["replicas"])}
        tokens = {labels.get("model", ""): value for labels, value in vector(address, QUERIES["tokens_per_second"])}
        cached, batch = number(address, QUERIES["cached_share"]), number(address, QUERIES["batch_size"])
    except Unreachable as error:
        return None, str(error)
    hourly = None if replica is None else replica * sum(replicas.values()) + (fixed or 0.0)
    generated = sum(tokens.values()) * 3600
    per_million = hourly / generated * 1e6 if hourly is not None and generated else None
    saved = None if hourly is None or cached is None or cached >= 1 else hourly * cached / (1 - cached)
    return {
        "replicas": replicas,
        "tokens_per_second": tokens,
        "hourly_usd": hourly,
        "usd_per_million_tokens": per_million,
        "cached_share": cached,
        "cache_saves_hourly_usd": saved,
        "batch_size": batch,
        "queries": QUERIES,
    }, None


def _times(price: float | None, count: float) -> float | None:
    return None if price is None else round(price * count, 6)


def show(report: dict[str, Any]) -> None:
    """Print the report; what is unknown is a question mark."""
    from inferstack.cli.plan import cost_line

    out = console()
    out.print(cost_line(report), markup=False, soft_wrap=True)
    for slot, row in report["slots"].items():
        out.print(f"  slot {slot}: {row['replicas']:g} replicas, {_usd(row['hourly_usd'])}/h", markup=False)
    for row in report["models"]:
        cells = f"{row['share']:.0%} by {row['shared_by']}, {_usd(row['hourly_usd'])}/h, {_usd(row['usd_per_million_tokens'])}/M tokens"
        out.print(f"  model {row['model']} ({row['quantization']}): {cells}", markup=False, soft_wrap=True)
    for row in report["tenants"]:
        tokens = f"{row['generated_tokens']:,} tokens generated, {row['cached_tokens']:,} from the cache"
        out.print(
            f"  tenant {row['tenant']}: {row['share']:.0%} by tokens, {_usd(row['hourly_usd'])}/h, {tokens}", markup=False, soft_wrap=True
        )
    measured = report["measured"]
    if measured:
        cached = "?" if measured["cached_share"] is None else f"{measured['cached_share']:.0%}"
        saved = _usd(measured["cache_saves_hourly_usd"])
        text = f"{_usd(measured['usd_per_million_tokens'])}/M tokens, {cached} from the cache, saves {saved}/h"
        out.print(f"measured in the last hour: {text}", markup=False, soft_wrap=True)
    else:
        out.print(f"not measured: {report['measured_error']}", markup=False, soft_wrap=True)
    for row in report["recommendations"]:
        keys = ", ".join(f"{key}={value}" for key, value in row["set"].items())
        out.print(f"{row['kind']}: {keys} saves ${row['saves_monthly_usd']:,.0f}/month; {row['but']}", markup=False, soft_wrap=True)


def _usd(value: float | None) -> str:
    return "$?" if value is None else f"${value:,.4g}"
