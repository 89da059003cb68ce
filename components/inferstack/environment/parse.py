"""Validate: every problem of an environment at once, the wrong leaves set aside."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from inferstack.environment.combinations import check_combinations
from inferstack.environment.explain import inner_section, rows
from inferstack.environment.kinds import PATTERNS, Section
from inferstack.environment.problems import MISSING, InvalidEnvironment, Problem
from inferstack.environment.schema import Environment


def parse_environment(raw: object, source: str = "environment") -> Environment:
    """Validate ``raw`` (the parsed YAML object) and return the environment.

    Raises InvalidEnvironment with every problem at once: wrong leaves are set aside and the combinations are
    checked on what is left, so that one bad value does not hide the next.
    """
    if not isinstance(raw, Mapping):
        raise InvalidEnvironment(source, [Problem("environment", raw, "a mapping of settings")])
    problems: dict[str, Problem] = {}
    environment = _without_wrong_leaves(_plain(raw, source), problems, source)
    wrong = dict(problems)
    for problem in check_combinations(environment):
        if problem.path not in wrong and not ("platform" in wrong and "platform is" in problem.expected):
            problems.setdefault(problem.path, problem)
    if problems:
        raise InvalidEnvironment(source, _sorted(problems))
    return environment


def _without_wrong_leaves(data: Any, problems: dict[str, Problem], source: str) -> Environment:
    """The environment that ``data`` is once its wrong leaves are taken out of it; each is added to ``problems``."""
    while True:
        try:
            return Environment.model_validate(data)
        except ValidationError as error:
            before = len(problems)
            details = error.errors()
            for detail in reversed(details):  # from the end, so that list positions stay true
                location = detail["loc"]
                if detail["type"] == "too_short" and any(
                    len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in details
                ):
                    continue  # the list is short only because its items are wrong
                problems.setdefault(_path(location), _to_problem(detail))
                _set_aside(data, location)
            if len(problems) == before:  # nothing new was learnt: no placeholder mends this value
                raise InvalidEnvironment(source, _sorted(problems)) from None


def _to_problem(detail: Any) -> Problem:
    location = tuple(detail["loc"])
    path, kind = _path(location), detail["type"]
    if kind == "extra_forbidden":
        return Problem(path, detail["input"], "no such key", _nearest_key(location))
    if kind == "missing":
        return Problem(path, MISSING, "a value (required)")
    context = detail.get("ctx", {})
    if kind in ("literal_error", "enum"):
        options = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        close = difflib.get_close_matches(str(detail["input"]).lower(), options, n=1, cutoff=0.5)
        return Problem(path, detail["input"], f"one of {', '.join(options)}", close[0] if close else None)
    if kind == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        return Problem(path, detail["input"], PATTERNS.get(pattern, f"text that matches {pattern}"), _meant(pattern, str(detail["input"])))
    if kind in _SHAPES:
        return Problem(path, detail["input"], _SHAPES[kind])
    message = str(detail["msg"]).removeprefix("Input should be ")
    return Problem(path, detail["input"], message[0].lower() + message[1:])


_SHAPES = {
    "tuple_type": "a list",
    "dict_type": "a mapping of settings",
    "model_type": "a mapping of settings",
    "string_type": "text",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number that is not infinite",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""What each kind of wrong shape should have been."""


def _meant(pattern: str, text: str) -> str | None:
    """What was probably meant by a text that does not match: the same without a letter too many, or with what was left out."""
    bare = text.replace(" ", "").removesuffix("B").removesuffix("b")
    options = (bare, text.lower().replace(" ", "-"), text.replace("https://huggingface.co/", "hf://"), f"hf://{text}", f"{text}/16")
    return next((option for option in options if option != text and re.search(pattern, option)), None)


def _nearest_key(location: tuple[str | int, ...]) -> str | None:
    """The key that was probably meant: a similar one of the same section, else the same one of another section."""
    section: type[Section] = Environment
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = inner_section(section.model_fields[part].annotation)[0] or section
    word = str(location[-1])
    close = difflib.get_close_matches(word, list(section.model_fields), n=1, cutoff=0.5)
    elsewhere = [path for path, *_ in rows() if path.rpartition(".")[2] == word]
    return next(iter(close + elsewhere), None)


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


def _set_aside(data: Any, location: tuple[str | int, ...]) -> None:
    """Take the wrong value at ``location`` out of ``data``; a required one is replaced by a placeholder."""
    for part in location[:-1]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return
    last = location[-1]
    if isinstance(data, dict) and last in _PLACEHOLDERS and data.get(last) != _PLACEHOLDERS[str(last)]:
        data[last] = _PLACEHOLDERS[str(last)]
    else:
        try:
            del data[last]
        except (KeyError, IndexError, TypeError):
            return


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
        return [copy(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value

    return copy(raw, 0)


_DEEPEST = 20


def _sorted(problems: Mapping[str, Problem]) -> list[Problem]:
    return sorted(problems.values(), key=lambda problem: problem.path)


def _path(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "environment"
