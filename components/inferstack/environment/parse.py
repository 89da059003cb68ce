"""Validate: every problem of an environment at once, the wrong leaves set aside."""

import difflib
import re
from collections.abc import Mapping
from copy import deepcopy
from datetime import date
from typing import Any

from pydantic import ValidationError

from inferstack.environment.combinations import check_combinations
from inferstack.environment.explain import rows
from inferstack.environment.kinds import PATTERNS
from inferstack.environment.nearest import nearest_key, section_at
from inferstack.environment.plaintext import take_secrets
from inferstack.environment.problems import MISSING, InvalidEnvironment, Problem
from inferstack.environment.schema import Environment


def parse_environment(raw: object, source: str = "environment") -> Environment:
    """Validate ``raw`` (the parsed YAML object) and return the environment.

    Raises InvalidEnvironment with every problem at once: wrong leaves are set aside and the combinations are
    checked on what is left, so that one bad value does not hide the next.
    """
    if not isinstance(raw, Mapping):
        raise InvalidEnvironment(source, [Problem("environment", raw, "a mapping of settings")])
    data = _plain(raw, source)
    problems = {problem.path: problem for problem in take_secrets(data, _KEYS)}
    environment = _without_wrong_leaves(data, problems, source)
    wrong = set(problems) | {_beside(path, problem.nearest) for path, problem in problems.items() if problem.nearest}
    for problem in check_combinations(environment):
        if not any(_follows(problem, path) for path in wrong):
            problems.setdefault(problem.path, problem)
    if problems:
        raise InvalidEnvironment(source, _sorted(problems))
    return environment


_KEYS = frozenset(path.rpartition(".")[2] for path, *_ in rows())


def _follows(problem: Problem, path: str) -> bool:
    """Whether a combination is wrong only because the value at `path` was set aside: it is there, around or inside, or what is expected
    speaks of it."""
    spoken = re.search(rf"(?<![\w.]){re.escape(path)}(?![\w.])", problem.expected) is not None
    return spoken or _within(problem.path, path) or _within(path, problem.path)


def _beside(path: str, name: str) -> str:
    """The path of a key beside the one at `path`."""
    return f"{path.rpartition('.')[0]}.{name}".removeprefix(".")


def _within(path: str, other: str) -> bool:
    """Whether `path` is `other` or stands inside it."""
    return path == other or path.startswith((f"{other}.", f"{other}["))


def _without_wrong_leaves(data: Any, problems: dict[str, Problem], source: str) -> Environment:
    """The environment that ``data`` is once its wrong leaves are taken out of it; each is added to ``problems``."""
    seen: set[tuple[str, str]] = set()
    while True:
        try:
            return Environment.model_validate(data)
        except ValidationError as error:
            details = error.errors()
            wrong = {_path(detail["loc"]) for detail in details}
            misspelt = {
                _path((*detail["loc"][:-1], nearest))
                for detail in details
                if detail["type"] == "extra_forbidden" and (nearest := nearest_key(detail["loc"]))
            }
            changed = False
            for detail in reversed(details):  # from the end, so that list positions stay true
                path, kind = _path(detail["loc"]), detail["type"]
                inside = any(_within(other, path) for other in problems)
                if kind == "too_short" and any(_within(other, path) for other in wrong - {path}):
                    continue  # the list is short only because its items are wrong
                # What follows from another mistake is no problem of its own: items taken out of a list, a key that is misspelt.
                follows = (kind in ("too_short", "extra_forbidden") and inside) or (kind == "missing" and (path in misspelt or inside))
                if not follows:
                    problems.setdefault(path, to_problem(detail))
                changed |= _set_aside(data, detail["loc"]) and (path, kind) not in seen
                seen.add((path, kind))
            if not changed:  # no placeholder mends this value
                raise InvalidEnvironment(source, _sorted(problems)) from None


def to_problem(detail: Any) -> Problem:
    """What one of pydantic's error details says, in the words of all problems."""
    location = tuple(detail["loc"])
    path, kind, context = _path(location), detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        nearest = nearest_key(location)
        keys = "" if nearest else f": {_path(location[:-1])} has {', '.join(section_at(location[:-1]).model_fields)}"
        return Problem(path, detail["input"], f"no such key{keys}", nearest)
    if kind == "missing":
        return Problem(path, MISSING, "a value (required)")
    if kind == "model_type":
        return Problem(path, detail["input"], f"a mapping of settings ({', '.join(section_at(location).model_fields)})")
    if kind in ("literal_error", "enum"):
        options = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return Problem(path, detail["input"], f"one of {', '.join(options)}", _meant_of(options, str(detail["input"]).lower()))
    if kind == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        return Problem(path, detail["input"], PATTERNS.get(pattern, f"text that matches {pattern}"), _meant(pattern, str(detail["input"])))
    if kind in _SHAPES:
        return Problem(path, detail["input"], _SHAPES[kind].format(**context))
    message = str(detail["msg"]).removeprefix("Input should be ")
    return Problem(path, detail["input"], message[0].lower() + message[1:])


_SHAPES = {
    "tuple_type": "a list",
    "dict_type": "a mapping of settings",
    "string_type": "text",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number that is not infinite",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "greater_than": "more than {gt:.10g}",
    "greater_than_equal": "{ge:.10g} or more",
    "less_than": "less than {lt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "too_short": "a list of at least {min_length}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
}
"""What each kind of wrong shape should have been."""


_SAME = {"gcp": "gke", "google": "gke", "azure": "aks", "k8s": "kubernetes", "bitsandbytes": "nf4"}
"""What others call some of the choices."""


def _meant_of(options: list[str], text: str) -> str | None:
    """The choice that was probably meant."""
    same = _SAME.get(text)
    close = [same] if same in options else difflib.get_close_matches(text, options, n=1, cutoff=0.5)
    return close[0] if close else None


def _meant(pattern: str, text: str) -> str | None:
    """What was probably meant by a text that does not match: the same without a letter too many, or with what was left out."""
    bare = text.replace(" ", "")
    bare = bare.removesuffix("B").removesuffix("b") if bare[:1].isdigit() else bare
    host = text.removeprefix("https://").removeprefix("http://").partition("/")[0].lower()
    options = [bare, text.lower().replace(" ", "-").replace("_", "-"), text.replace("https://huggingface.co/", "hf://"), host]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        options.append(f"hf://{text}")
    if re.fullmatch(r"[\d.]+", text):
        options += [f"{text}/16", f"{text}Mi"]
    if text.startswith("/"):
        options.append(f"file://{text}")
    return next((option for option in options if option != text and re.search(pattern, option)), None)


_PLACEHOLDERS: dict[str, Any] = {
    "platform": "kubernetes",
    "models": [{"name": "placeholder", "source": "file://placeholder"}],
    "name": "placeholder",
    "source": "file://placeholder",
    "accelerator": "placeholder",
    "requests_per_minute": 1,
    "tokens_per_minute": 1,
    "rule": "placeholder",
    "reason": "placeholder",
    "owner": "placeholder",
    "expires": "2000-01-01",
}


def _set_aside(data: Any, location: tuple[str | int, ...]) -> bool:
    """Take the wrong value at ``location`` out of ``data``, a required one by a placeholder; whether there was anything to take."""
    last = location[-1]
    try:
        for part in location[:-1]:
            data = data[part]
        if isinstance(data, dict) and last in _PLACEHOLDERS and data.get(last) != _PLACEHOLDERS[str(last)]:
            data[last] = deepcopy(_PLACEHOLDERS[str(last)])
        else:
            del data[last]
    except (KeyError, IndexError, TypeError):
        return False
    return True


_MOST_VALUES = 20_000
"""Values of one environment; aliases that unfold to more are a mistake or worse."""


def _plain(raw: Any, source: str) -> Any:
    """The data without anything of the parser's own; raises InvalidEnvironment for a document that has no end."""
    left = _MOST_VALUES

    def copy(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            expected = f"at most {_MOST_VALUES} values, {_DEEPEST} levels deep (an alias may stand inside itself)"
            raise InvalidEnvironment(source, [Problem("environment", MISSING, expected)])
        if isinstance(value, Mapping):
            return {str(key): copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item, depth + 1) for item in value]
        if isinstance(value, date):
            return value.isoformat()
        return value.removesuffix(_MIDNIGHT) if isinstance(value, str) and value.endswith(_MIDNIGHT) else value

    return copy(raw, 0)


_DEEPEST = 20
_MIDNIGHT = " 00:00:00 +0000 UTC"
"""What Pulumi puts after a day that stands in its YAML without quotes."""


def _sorted(problems: Mapping[str, Problem]) -> list[Problem]:
    return sorted(problems.values(), key=lambda problem: problem.path)


def _path(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "environment"
