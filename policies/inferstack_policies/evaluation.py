"""Apply rules to resources. A rule that needs a value which is not known yet is undecided, never passed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inferstack_policies.model import UNKNOWN, Context, Resource, Rule, Violation


class Undecided(Exception):
    """A rule looked at a value that only the provider will know."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run of rules found: violations, and (rule, path) of what could not be judged yet."""

    violations: tuple[Violation, ...]
    undecided: tuple[tuple[str, str], ...]


def evaluate(resources: Iterable[Resource], context: Context, rules: Sequence[Rule]) -> Verdict:
    """Judge every resource by every rule; errors first, then by path and rule."""
    guarded = [replace(resource, props=guard(resource.props)) for resource in resources]
    violations: list[Violation] = []
    undecided: list[tuple[str, str]] = []
    for rule in rules:
        if rule.check is not None:
            for resource in guarded:
                try:
                    violations += judge(rule, resource, context)
                except Undecided:
                    undecided.append((rule.id, resource.path))
        if rule.check_stack is not None:
            try:
                violations += judge_stack(rule, guarded, context)
            except Undecided:
                undecided.append((rule.id, "stack"))
    in_order = sorted(set(violations), key=lambda v: (v.severity != "error", v.path, v.rule, v.message))
    return Verdict(tuple(in_order), tuple(sorted(set(undecided))))


def judge(rule: Rule, resource: Resource, context: Context) -> Iterator[Violation]:
    """The violations of one rule by one resource; raises Undecided."""
    if rule.check is None or resource.kind not in rule.kinds:
        return
    for where, message in rule.check(resource, context):
        path = f"{resource.path}: {where}" if where else resource.path
        yield Violation(rule.id, rule.severity, path, message, rule.fix)


def judge_stack(rule: Rule, resources: Sequence[Resource], context: Context) -> Iterator[Violation]:
    """The violations of one rule by all resources together; raises Undecided."""
    if rule.check_stack is None:
        return
    for found in rule.check_stack(resources, context):
        path = f"{found.resource.path}: {found.where}" if found.where else found.resource.path
        yield Violation(rule.id, rule.severity, path, found.message, rule.fix)


def guard(value: Any) -> Any:
    """A copy of plain data that raises Undecided when an unknown value is looked at."""
    if isinstance(value, dict):
        return _GuardedDict({key: guard(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return _GuardedList([guard(item) for item in value])
    return value


def _known(value: Any) -> Any:
    if isinstance(value, str) and value == UNKNOWN:
        raise Undecided
    return value


class _GuardedDict(dict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        return _known(super().__getitem__(key))

    def get(self, key: str, default: Any = None) -> Any:
        return _known(super().get(key, default))

    def items(self) -> Any:
        return [(key, _known(value)) for key, value in super().items()]

    def values(self) -> Any:
        return [_known(value) for value in super().values()]


class _GuardedList(list[Any]):
    def __getitem__(self, index: Any) -> Any:
        return _known(super().__getitem__(index))

    def __iter__(self) -> Iterator[Any]:
        return (_known(value) for value in super().__iter__())
