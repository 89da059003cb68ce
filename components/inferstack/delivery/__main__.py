"""What the workflows call: `python -m inferstack.delivery COMMAND` (scripts/gate and its neighbours).

Exit codes: 0 let pass or done · 2 an input is wrong · 3 refused, with one sentence · 5 a tool or service failed.
"""

import argparse
import asyncio
import os
import re
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from inferstack.delivery import gates, stacks
from inferstack.delivery.audit import read_audit
from inferstack.delivery.files import comment_from_files, read_json, read_object
from inferstack.delivery.gates import Refused
from inferstack.delivery.plans import BadInput, objects
from inferstack.delivery.trial import run_contained, write_trial
from inferstack.environment import Environment, InvalidEnvironment, load_environment


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; what is wrong goes to stderr in one line."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except Refused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return 3
    except InvalidEnvironment as error:
        print(f"{options.command}: {error.source}: {'; '.join(map(str, error.problems))}", file=sys.stderr)
        return 2
    except BadInput as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 5


def _digest(options: argparse.Namespace) -> None:
    print(gates.by_digest(options.image))


def _signature(options: argparse.Namespace) -> None:
    verification = read_json(options.verification) if options.status == 0 else None
    complaint = options.complaint.read_text(encoding="utf-8", errors="replace").strip().splitlines() if options.complaint else []
    gates.signed(options.image, verification, options.status, complaint[-1] if complaint else "")


def _plan(options: argparse.Namespace) -> None:
    gates.plan_clean(read_object(options.file))


def _cost(options: argparse.Namespace) -> None:
    gates.within_cost(read_object(options.file), options.hourly)


def _waivers(options: argparse.Namespace) -> None:
    gates.waivers_valid(options.environment, _environment(options).waivers, _today())


def _scan(options: argparse.Namespace) -> None:
    waivers = _environment(options).waivers if options.environment else ()
    for file in options.files:
        gates.scan_clean(file.stem, read_object(file), waivers, _today())


def _audit(options: argparse.Namespace) -> int:
    found, skipped = read_audit(read_object(options.file))
    for line in found:
        print(line)
    if found:
        raise Refused(f"{len(found)} known vulnerabilities in the locked packages, first {found[0]}.")
    if skipped:
        print(
            f"audit: the advisory service knew nothing of {len(skipped)} packages (first {skipped[0]}); they were not audited",
            file=sys.stderr,
        )
        return 5
    return 0


def _sbom(options: argparse.Namespace) -> None:
    from inferstack.delivery.sbom import bill_of_materials  # the library is an extra that deployments need not have

    options.out.write_text(bill_of_materials(options.archive), encoding="utf-8")


def _comment(options: argparse.Namespace) -> None:
    plan = read_object(options.plan)
    print(comment_from_files(plan, options.base, options.scan, options.backtest, options.backtest_base), end="")


def _trial(options: argparse.Namespace) -> None:
    port, key = write_trial(options.folder)
    print(port, key)


def _contained(options: argparse.Namespace) -> None:
    run_contained(options.tag, options.root, str(options.folder))


def _stack(options: argparse.Namespace) -> None:
    print(stacks.stack_name(options.number))


def _over(options: argparse.Namespace) -> None:
    rows = read_json(options.file)
    if not isinstance(rows, list):
        raise BadInput(f"{options.file}: expected the list of `pulumi stack ls --json`")
    for name in stacks.over(objects(rows, str(options.file)), datetime.now(UTC), options.hours, options.closed):
        print(name)


def _health(options: argparse.Namespace) -> None:
    from inferstack.delivery.health import check, describe, judge

    key = os.environ.get("INFERSTACK_KEY", "")
    if not key:
        raise BadInput("INFERSTACK_KEY is empty: expected an API key of the environment")
    if not (key.isascii() and key.isprintable()):
        raise BadInput("INFERSTACK_KEY holds a line end or another character that no API key has")
    if not re.fullmatch(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[^\s?#]*)?", options.url, re.ASCII):
        raise BadInput(f"{options.url!r} is no URL of a gateway: expected https://HOST (the variable INFERSTACK_URL of the environment)")
    limits = _environment(options).promotion.gates
    if options.ready:
        return
    health = asyncio.run(check(options.url, key, requests=options.requests, concurrency=options.concurrency))
    print(describe(health))
    judge(health, error_ratio=limits.error_ratio, ttft_p95_seconds=limits.ttft_p95_seconds)


def _environment(options: argparse.Namespace) -> Environment:
    return load_environment(options.project / "stacks", options.environment)


def _today() -> date:
    return datetime.now(UTC).date()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inferstack.delivery", description="Gates and helpers of the pipeline.")
    parser.add_argument("--project", default=Path(), type=Path, help="folder with Pulumi.yaml")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    command("digest", _digest, "Stop an image that is not named by its digest; print the digest.").add_argument("image")
    signature = command("signature", _signature, "Stop an image that cosign did not verify.")
    signature.add_argument("image")
    signature.add_argument("verification", type=Path, help="output of `cosign verify --output json`")
    signature.add_argument("--status", type=int, required=True, help="its exit status")
    signature.add_argument("--complaint", type=Path, help="file with its error output")
    command("plan", _plan, "Stop a plan with findings of severity error.").add_argument("file", type=Path)
    cost = command("cost", _cost, "Stop a plan that costs more than a ceiling.")
    cost.add_argument("file", type=Path)
    cost.add_argument("--hourly", type=float, required=True, help="US dollars")
    command("waivers", _waivers, "Stop an environment with an expired waiver.").add_argument("environment")
    scan = command("scan", _scan, "Stop reports of Trivy with serious hits that can be mended.")
    scan.add_argument("files", type=Path, nargs="+")
    scan.add_argument("--environment", help="whose waivers hold")
    command("audit", _audit, "Stop known vulnerabilities in pip-audit's JSON.").add_argument("file", type=Path)
    sbom = command("sbom", _sbom, "Write the CycloneDX bill of materials of an image archive.")
    sbom.add_argument("archive", type=Path)
    sbom.add_argument("out", type=Path)
    comment = command("comment", _comment, "Print the comment on a pull request, from plans and reports.")
    comment.add_argument("plan", type=Path, help="output of `inferstack plan ENV --json`")
    comment.add_argument("--base", type=Path, help="the same before the change")
    comment.add_argument("--scan", type=Path, action="append", default=[], help="JSON report of Trivy; its file name says what was scanned")
    comment.add_argument("--backtest", type=Path, help="output of `inferstack scaling backtest --json`")
    comment.add_argument("--backtest-base", type=Path, help="the same before the change")
    command("trial", _trial, "Write a configuration for one run of an image; print port and key.").add_argument("folder", type=Path)
    contained = command("contained", _contained, "Run an unpacked image without a container engine.")
    for argument in ("tag", "root", "folder"):
        contained.add_argument(argument)
    command("stack", _stack, "Print the stack name of a pull request.").add_argument("number")
    over = command("over", _over, "Print the pull-request stacks whose time is over.")
    over.add_argument("file", type=Path, help="output of `pulumi stack ls --json`")
    over.add_argument("--hours", type=float, required=True)
    over.add_argument("--closed", nargs="*", default=[], help="numbers of closed pull requests")
    health = command("health", _health, "Stop a deploy whose answers fail or lag; the key comes in INFERSTACK_KEY.")
    health.add_argument("environment")
    health.add_argument("url")
    health.add_argument("--requests", type=int, default=20)
    health.add_argument("--concurrency", type=int, default=4)
    health.add_argument("--ready", action="store_true", help="ask nothing; only say whether the key and the URL are there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
