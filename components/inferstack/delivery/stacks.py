"""Stacks of pull requests: named after the request, and gone when their time is over. Pure."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from inferstack.delivery.plans import BadInput

_MOST_HOURS = 100_000
_NAME = re.compile(r"(?:[^/]+/){0,2}(pr-[1-9][0-9]*)")


def stack_name(number: str) -> str:
    """Name of the stack of pull request `number`; raises BadInput when that is no number."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        raise BadInput(f"pull request {number!r}: expected its number")
    return f"pr-{number}"


def over(stacks: Iterable[Mapping[str, Any]], now: datetime, hours: float, closed: Iterable[str] = ()) -> list[str]:
    """Names of the pull-request stacks to take down, from `pulumi stack ls --json`.

    A stack's time is over `hours` after its last update, or as soon as its pull request (by number) is `closed`. A stack that
    was never updated holds nothing and goes too; one that is being updated stays, and so does any that is not a pull request's.
    """
    if not 0 <= hours < _MOST_HOURS:
        raise BadInput(f"hours: expected a number from 0 to {_MOST_HOURS}, found {hours}")
    gone = {stack_name(number) for number in closed}
    names = []
    for stack in stacks:
        match = _NAME.fullmatch(str(stack.get("name", "")))
        if match is None or stack.get("updateInProgress"):
            continue
        last = stack.get("lastUpdate")
        if match[1] in gone or not last or _time(str(last)) + timedelta(hours=hours) <= now:
            names.append(str(stack["name"]))
    return sorted(names)


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"stack: `lastUpdate` {text!r} is no time") from None
    if moment.tzinfo is None:
        raise BadInput(f"stack: `lastUpdate` {text!r} lacks a time zone")
    return moment
