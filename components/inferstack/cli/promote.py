"""Promote a new version into the idle slot, move the traffic behind gates, keep the old one warm."""

import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml
from pydantic import BaseModel, Field, ValidationError

from inferstack.cli.output import EnvironmentName, ExitCode, Failure, JsonEvents, Project, console, examples, print_json, unheard
from inferstack.environment import ROUTING_HEADERS, Environment, Header, InvalidEnvironment, Platform, Problem
from inferstack.environment.document import parse_yaml
from inferstack.promotion.journal import Policy, Strategy
from inferstack.promotion.spec import SlotSpec, flatten, impossible, with_settings

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="What changes, for instance `slot.quantization=int8`. Repeatable.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the command `promote`."""
    app.command(
        "promote",
        epilog=examples(
            "inferstack promote local --set slot.quantization=int8",
            "inferstack promote staging-gke --file new.yaml --strategy canary --steps 10,50,100 --yes",
            "inferstack promote local --set slot.context=4096 --header X-Cohort=beta --dry-run",
        ),
    )(promote)


def promote(
    name: EnvironmentName,
    settings: Settings = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="YAML with the same settings, nested under `slot:`.", show_default=False)
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="blue_green, canary or rolling; by default the environment's.", show_default=False)
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Percents of the new slot, for instance 10,50,100; by default the environment's.", show_default=False)
    ] = None,
    header: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="First only requests with this header go to the new slot, then `--steps`; by default the environment's.",
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What `inferstack-runtime eval --json` said of the new version, for gates.accuracy.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen, change nothing.")] = False,
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="Promote although the live state is not what was rendered.")] = False,
    accept_unhealthy_live: Annotated[
        bool, typer.Option("--accept-unhealthy-live", help="Promote although the live slot is down and there is no way back.")
    ] = False,
    project: Project = None,
    as_json: JsonEvents = False,
) -> int:
    """Promote a new version without losing a request.

    Exit codes: 0 promoted, 2 refused, 4 reverted (the old version serves), 5 the platform failed or somebody else promotes.
    """
    from inferstack.cli._progress import Progress
    from inferstack.cli._promotion import open_environment, orderly, tell
    from inferstack.promotion import commands

    wanted = read_settings(settings or [], file)
    opened = open_environment(name, project)
    measured = read_evaluation(evaluation) if evaluation is not None else None
    policy = read_policy(
        opened.environment,
        strategy,
        steps,
        header,
        allow_drift=allow_drift,
        allow_unhealthy_live=accept_unhealthy_live,
        accuracy=measured and measured.top1_agreement,
    )

    def change(spec: SlotSpec) -> SlotSpec:
        changed = with_settings(spec, wanted)
        if problems := impossible(opened.environment, spec, changed):
            raise InvalidEnvironment("the new version", problems)
        if measured is not None:
            _same_format(changed, measured, evaluation)
        return changed

    progress = Progress(as_json=as_json)
    with orderly(name, progress):
        plan = commands.preview(opened.session(progress), change, policy)
        if dry_run:
            print_json(plan) if as_json else _show(plan)
            return int(ExitCode.DONE)
        if not as_json:
            with unheard():
                _show(plan)
        _confirm(opened.environment, yes=yes, as_json=as_json)
        with progress:
            ended = commands.promote(opened.session(progress), change, policy)
    return tell(name, ended, progress, as_json=as_json)


def read_settings(settings: list[str], file: Path | None) -> dict[str, Any]:
    """`--file` and `--set` as dotted keys; `--set` wins. Raises InvalidEnvironment."""
    wanted: dict[str, Any] = {}
    if file is not None:
        try:
            document = parse_yaml(file.read_text(encoding="utf-8-sig"))
            wanted |= flatten(document) if isinstance(document, dict) else {}
        except (OSError, yaml.YAMLError, ValueError) as error:
            raise InvalidEnvironment(str(file), [Problem("--file", str(file), f"a readable YAML file: {error}")]) from None
        except RecursionError:
            raise InvalidEnvironment(str(file), [Problem("--file", str(file), "YAML that is not nested this deep")]) from None
        if not isinstance(document, dict):
            raise InvalidEnvironment(str(file), [Problem("--file", document, "a mapping, for instance {slot: {quantization: int8}}")])
    wrong = [Problem("--set", setting, "KEY=VALUE") for setting in settings if not setting.partition("=")[0].strip() or "=" not in setting]
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            wanted[key.strip()] = parse_yaml(value) if value else ""
        except (yaml.YAMLError, ValueError, RecursionError):
            wrong.append(Problem(key, value, "a YAML value"))
    if wrong:
        raise InvalidEnvironment("--set", wrong)
    return wanted


class Evaluation(BaseModel):
    """What is read of an evaluation's report."""

    quantization: str
    top1_agreement: Annotated[float, Field(ge=0, le=1)]


def read_evaluation(file: Path) -> Evaluation:
    """The report of `inferstack-runtime eval --json`. Raises InvalidEnvironment."""
    try:
        return Evaluation.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        expected = f"the JSON that `inferstack-runtime eval --json` prints: {str(error).splitlines()[0]}"
        raise InvalidEnvironment("promote", [Problem("--evaluation", str(file), expected)]) from None


def _same_format(spec: SlotSpec, measured: Evaluation, file: Path | None) -> None:
    other = sorted({str(model.quantization) for model in spec.models} - {measured.quantization})
    if other:
        expected = f"an evaluation of {', '.join(other)}: this one is of {measured.quantization}"
        raise InvalidEnvironment("promote", [Problem("--evaluation", str(file), expected)])


def read_policy(environment: Environment, strategy: str | None, steps: str | None, header: str | None = None, **changes: object) -> Policy:
    """The environment's policy with what the command line says otherwise. Raises InvalidEnvironment."""
    from inferstack.promotion.commands import policy_of

    problems = []
    if strategy is not None:
        strategy = strategy.replace("-", "_")
        if strategy not in get_args(Strategy):
            problems.append(Problem("--strategy", strategy, f"one of {', '.join(get_args(Strategy))}"))
        changes["strategy"] = strategy
    if steps is not None:
        try:
            shares = tuple(int(part) for part in steps.split(","))
        except ValueError:
            shares = ()
        if not shares or shares[-1] != 100 or list(shares) != sorted(set(shares)) or shares[0] <= 0:
            problems.append(Problem("--steps", steps, "rising percents that end with 100, for instance 10,50,100"))
        elif changes.get("strategy", environment.promotion.strategy) == "rolling":
            problems.append(Problem("--steps", steps, "strategy blue_green or canary: rolling moves replica by replica"))
        changes["steps"] = shares
    if header is not None:
        header_name, _, value = header.partition("=")
        try:
            wanted = Header(name=header_name, value=value)
            changes["header"] = (wanted.name.lower(), wanted.value)
        except ValidationError:
            wanted = None
        if wanted is None or wanted.name.lower() in ROUTING_HEADERS:
            expected = "NAME=VALUE of a request header that routes nothing yet, for instance X-Cohort=beta"
            problems.append(Problem("--header", header, expected))
        elif changes.get("strategy", environment.promotion.strategy) == "rolling":
            problems.append(Problem("--header", header, "strategy blue_green or canary: rolling moves replica by replica"))
    if problems:
        raise InvalidEnvironment("promote", problems)
    return policy_of(environment, **changes)


def _confirm(environment: Environment, *, yes: bool, as_json: bool) -> None:
    if yes or environment.platform is Platform.LOCAL:
        return
    if as_json or not sys.stdin.isatty():
        raise Failure("this promotes on a cluster and nobody can be asked here", next_step="add --yes")
    if not typer.confirm("Promote?", default=False):
        raise Failure("not promoted", code=ExitCode.INPUT)


def _show(plan: dict[str, Any]) -> None:
    out = console()
    out.print(f"{plan['environment']}: {plan['strategy']}, {plan['live_slot']} → {plan['target_slot']}", style="bold", markup=False)
    out.print(f"  live  {plan['live']}", markup=False)
    same = "" if plan["changed"] else ", the version that is live already"
    out.print(f"  new   {plan['new']} (generation {plan['generation']}{same})", markup=False)
    out.print(
        f"  steps {', '.join(str(step) for step in plan['steps'])} %, {plan['replicas']} replicas beside {plan['replicas']}", markup=False
    )
    if plan["header"]:
        out.print(f"  first only requests with {': '.join(plan['header'])}", markup=False)
    out.print(f"  cost  {plan['overlap']}", markup=False)
    for difference in plan["drift"]:
        out.print(f"  drift {difference}", style="yellow", markup=False)
