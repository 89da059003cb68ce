"""The plan of an environment: every stack that it consists of, run in this process, with its findings and its cost.

plan = plan_environment(root, "prod")           # platform stack and both slot stacks
plan.to_json()["resources"][0]["type"]
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import inferstack_policies as policies
from inferstack.environment import BASE_KEY, CONFIG_KEY, Environment, Layer, Platform, SlotName, load_environment, read_config
from inferstack.planning import Cost, Finding, cost, plan_findings
from inferstack.program.review import cost_json, finding_json, review
from inferstack.program.run import Run, run_stack


@dataclass(frozen=True)
class Planned:
    """One resource of the plan."""

    type: str
    name: str
    layer: str
    """`all`, `platform`, or `slot`; with `stack` it says which stack will hold the resource."""
    stack: str
    parent: str | None
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What an environment will consist of."""

    environment: str
    resources: tuple[Planned, ...]
    findings: tuple[Finding, ...]
    cost: Cost
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The object of `plan --json`."""
        return {
            "environment": self.environment,
            "resources": [
                {
                    "type": item.type,
                    "name": item.name,
                    "layer": item.layer,
                    "stack": item.stack,
                    "parent": item.parent,
                    "inputs": dict(item.inputs),
                }
                for item in self.resources
            ],
            "findings": [finding_json(finding) for finding in self.findings],
            "cost": cost_json(self.cost),
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True)
class StackRun:
    """One stack of an environment and what its program registered."""

    stack: str
    layer: Layer
    run: Run


def plan_environment(root: Path, name: str, layer: Layer | None = None, *, preview: bool = True) -> Plan:
    """Plan environment `name` of the project at `root`; `layer` picks one layer, whatever the file says.

    What the planning finds is in the plan, and does not stop it. Raises InvalidEnvironment, or run.ProgramFailed when the program
    itself refuses. Where findings say why nothing can be made of it, it has no resources.
    """
    started = time.monotonic()
    environment = load_environment(root / "stacks", name)
    try:
        runs = run_environment(root, name, environment, layer, preview=preview)
    except ValueError:  # components refuse what cannot be made at all, as the findings say
        if all(finding.severity != "error" for finding in plan_findings(environment)):
            raise
        runs = []
    resources = [item for stack in runs for item in _planned(stack)]
    found = review(environment, (policies.Resource(item.type, item.name, item.inputs) for item in resources))
    return Plan(name, tuple(resources), tuple(found), cost(environment), time.monotonic() - started)


def run_environment(
    root: Path,
    name: str,
    environment: Environment,
    layer: Layer | None = None,
    *,
    preview: bool = True,
    outputs: Mapping[str, Any] | None = None,
) -> list[StackRun]:
    """Run every stack of an environment, the platform's first; the slots' stacks see its outputs. A local environment has none.

    `outputs` are those of a platform stack that is up: what they hold is known, in place of what a preview cannot know; under `known`
    they hold what the cloud said of the resources that Kubernetes objects refer to.
    """
    if environment.platform is Platform.LOCAL:
        return []
    found: list[StackRun] = []
    project = yaml.safe_load((root / "Pulumi.yaml").read_text(encoding="utf-8"))["name"]
    references: dict[str, Mapping[str, Any]] = {f"organization/{project}/{name}": outputs} if outputs else {}
    for stack, stack_layer, config in _stacks(root, name, environment, layer):
        if config is None:
            config = dict(read_config(root / "stacks" / f"Pulumi.{stack}.yaml"))
        run = run_stack(root, stack, config=config, preview=preview, references=references, known=(outputs or {}).get("known"))
        references[f"organization/{project}/{stack}"] = {**run.outputs, **(outputs or {})}
        found.append(StackRun(stack, stack_layer, run))
    return found


def _stacks(root: Path, name: str, environment: Environment, layer: Layer | None) -> list[tuple[str, Layer, dict[str, Any] | None]]:
    """(stack, layer, configuration) of each stack; None: the configuration of the stack's own file."""
    if environment.layer is Layer.SLOT:
        return [(name, Layer.SLOT, None)]
    found: list[tuple[str, Layer, dict[str, Any] | None]] = []
    if layer in (None, Layer.PLATFORM) and environment.layer is Layer.PLATFORM:
        found.append((name, Layer.PLATFORM, None))
    elif layer in (None, Layer.ALL) and environment.layer is Layer.ALL:
        return [(name, Layer.ALL, None)]
    elif layer in (Layer.PLATFORM, Layer.ALL):
        found.append((name, layer, {BASE_KEY: name, CONFIG_KEY: {"layer": str(layer)}}))
    if layer in (None, Layer.SLOT):
        for slot in SlotName:
            stack = f"{name}-{slot}"
            own = (root / "stacks" / f"Pulumi.{stack}.yaml").is_file()
            found.append((stack, Layer.SLOT, None if own else slot_config(name, slot)))
    return found


def slot_config(environment: str, slot: SlotName) -> dict[str, Any]:
    """Configuration of a slot's stack that says nothing but where it belongs."""
    return {BASE_KEY: environment, CONFIG_KEY: {"layer": "slot", "slot": str(slot)}}


def _planned(stack: StackRun) -> list[Planned]:
    """The resources of a run, parents before their children, in an order that does not depend on timing."""
    by_urn = {item.urn: item for item in stack.run.resources}

    def path(urn: str) -> tuple[tuple[str, str], ...]:
        item = by_urn.get(urn)
        return (*path(item.parent), (item.name, item.type)) if item else ()

    return [
        Planned(item.type, item.name, str(stack.layer), stack.stack, stack.run.parent_name(item), item.inputs)
        for item in sorted(stack.run.resources, key=lambda item: path(item.urn))
    ]
