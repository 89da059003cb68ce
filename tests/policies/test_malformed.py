"""No rule falls over what is malformed: each value of the good stack replaced by values of other types."""

import random
import time
from collections.abc import Iterator
from copy import copy
from typing import Any

import pytest

from inferstack_policies import RULES, Resource, evaluate
from tests.policies.fixtures import stack

WRONG: tuple[Any, ...] = (None, True, 7, -1.5, "text", "", [], ["x"], [None], [[]], [{}], {}, {"a": None}, {"a": []}, {"a": {"b": 1}})


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value below the first level, which is always a mapping."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(item, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    value = copy(value)
    value[at[0]] = replaced(value[at[0]], at[1:], new)
    return value


def variants() -> list[tuple[int, tuple[Any, ...], Any]]:
    resources, _ = stack()
    return [(i, at, wrong) for i, resource in enumerate(resources) for at in places(resource.props) for wrong in WRONG]


def judge(cases: list[tuple[int, tuple[Any, ...], Any]]) -> None:
    resources, context = stack()
    for i, at, wrong in cases:
        resource = resources[i]
        changed = Resource(resource.type, resource.name, replaced(resource.props, at, wrong))
        try:
            evaluate([*resources[:i], changed, *resources[i + 1 :]], context, RULES)
        except Exception as error:
            raise AssertionError(f"{resource.path}, {'.'.join(map(str, at))} = {wrong!r}: {error!r}") from error


def test_some_malformed_values() -> None:
    judge(random.Random(4).sample(variants(), 150))


@pytest.mark.slow
def test_every_malformed_value() -> None:
    judge(variants())


@pytest.mark.parametrize("unit", ["a", "eyJ-", "a://", "a://x:", "-----BEGIN A"])
def test_a_config_map_of_a_megabyte_is_judged_at_once_whatever_stands_in_it(unit: str) -> None:
    """What is judged may come from anybody: no text makes a rule look at it again from each of its places."""
    _, context = stack()
    hostile = Resource(
        "kubernetes:core/v1:ConfigMap", "hostile", {"metadata": {"name": "x"}, "data": {"text": unit * (1_000_000 // len(unit))}}
    )
    started = time.process_time()
    evaluate([hostile], context, RULES)
    assert time.process_time() - started < 5
