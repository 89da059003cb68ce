"""What a promotion can change about a slot, and how settings of the command line change it.

spec = SlotSpec.from_environment(environment, generation=4)
spec = with_settings(spec, {"slot.quantization": "int8"})       # raises InvalidEnvironment with every problem
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from inferstack.environment import Engine, Environment, InvalidEnvironment, Model, Platform, Problem, Resources, check_combinations
from inferstack.environment.parse import to_problem

_Section = TypeVar("_Section", bound=BaseModel)

MODEL_KEYS = ("quantization", "source", "context", "digest")
UNQUANTIZED = frozenset(("none", "bf16"))
_WHOLE_KEYS = ("replicas", "image")


@dataclass(frozen=True)
class SlotSpec:
    """The desired state of one slot: models, engine, resources of a replica, replicas, and the promotion that made it."""

    models: tuple[Model, ...]
    engine: Engine
    resources: Resources
    replicas: int = 1
    generation: int = 1

    @classmethod
    def from_environment(cls, environment: Environment, generation: int = 1) -> "SlotSpec":
        """The spec that the environment file asks for."""
        return cls(
            models=environment.models,
            engine=environment.engine,
            resources=environment.slots.resources,
            replicas=max(environment.slots.replicas.min, 1),
            generation=generation,
        )

    @cached_property
    def id(self) -> str:
        """Fingerprint of what runs: everything but the number of replicas. Equal ids are the same rendered slot."""
        return _fingerprint(replace(self, replicas=1))

    @cached_property
    def version(self) -> str:
        """Fingerprint of what is served, whichever generation serves it."""
        return _fingerprint(replace(self, replicas=1, generation=1))

    @property
    def summary(self) -> str:
        """For people: models with quantization, and the image where there is one."""
        models = ", ".join(f"{model.name} {model.quantization}" for model in self.models)
        return f"{models} ({self.engine.image})" if self.engine.image else models

    @property
    def unquantized(self) -> bool:
        """Whether all its models are what quantized ones are measured against."""
        return all(model.quantization in UNQUANTIZED for model in self.models)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "SlotSpec":
        """The inverse of to_json; raises ValueError for anything else."""
        return _ADAPTER.validate_python(dict(data))


_ADAPTER = TypeAdapter(SlotSpec)


def _fingerprint(spec: SlotSpec) -> str:
    return hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def with_spec(environment: Environment, spec: SlotSpec) -> Environment:
    """The environment as a slot of this spec sees it."""
    slots = environment.slots.model_copy(update={"resources": spec.resources})
    return environment.model_copy(update={"models": spec.models, "engine": spec.engine, "slots": slots})


def impossible(environment: Environment, live: SlotSpec, spec: SlotSpec) -> list[Problem]:
    """Why the environment cannot have a slot of `spec`, apart from what is true of the live one already."""
    known = check_combinations(with_spec(environment, live))
    found = [problem for problem in check_combinations(with_spec(environment, spec)) if problem not in known]
    if environment.platform is Platform.LOCAL:
        asked = {"slot.image": (live.engine.image, spec.engine.image), "slot.resources": (live.resources, spec.resources)}
        nothing = "nothing: on one machine this installation's runtime serves, with what the machine has"
        found += [Problem(key, new, nothing) for key, (old, new) in asked.items() if new != old]
    return found


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys: `{"slot": {"engine": {"threads": 2}}}` → `{"slot.engine.threads": 2}`."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def with_settings(spec: SlotSpec, settings: Mapping[str, Any]) -> SlotSpec:
    """Apply `slot.…` settings. Raises InvalidEnvironment with every wrong key and value at once."""
    problems: list[Problem] = []
    models = [model.model_dump(mode="json") for model in spec.models]
    engine = spec.engine.model_dump(mode="json")
    resources = spec.resources.model_dump(mode="json")
    replicas = spec.replicas
    for key, value in settings.items():
        name = key.removeprefix("slot.")
        section, _, inner = name.partition(".")
        if not key.startswith("slot.") or not _known(name):
            near = difflib.get_close_matches(key, setting_keys(), n=1, cutoff=0.5)
            problems.append(Problem(key, value, "a setting of the slot", near[0] if near else None))
        elif name in ("source", "digest") and len(models) > 1:
            problems.append(Problem(key, value, f"one model, but the slot serves {len(models)}: change models in the environment file"))
        elif name in MODEL_KEYS:
            for model in models:
                model[name] = value
        elif name == "image":
            engine["image"] = value
        elif name == "replicas":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(Problem(key, value, "a whole number of at least 1"))
            else:
                replicas = value
        elif section == "engine":
            engine[inner] = value
        else:
            resources[inner] = value
    new_models = tuple(_parse(Model, model, "slot", problems) or spec.models[index] for index, model in enumerate(models))
    new_engine = _parse(Engine, engine, "slot.engine", problems) or spec.engine
    new_resources = _parse(Resources, resources, "slot.resources", problems) or spec.resources
    if problems:
        unique = {problem.path: problem for problem in problems}
        raise InvalidEnvironment("the new version", [unique[path] for path in sorted(unique)])
    return replace(spec, models=new_models, engine=new_engine, resources=new_resources, replicas=replicas)


def setting_keys() -> list[str]:
    """Every key that `--set` takes."""
    keys = [f"slot.{name}" for name in (*MODEL_KEYS, *_WHOLE_KEYS)]
    keys += [f"slot.engine.{name}" for name in Engine.model_fields]
    return keys + [f"slot.resources.{name}" for name in Resources.model_fields]


def _known(name: str) -> bool:
    return f"slot.{name}" in setting_keys()


def _parse(kind: type[_Section], data: dict[str, Any], path: str, problems: list[Problem]) -> _Section | None:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        for detail in error.errors():
            problem = to_problem(detail)
            problems.append(replace(problem, path=f"{path}.{problem.path}"))
        return None
