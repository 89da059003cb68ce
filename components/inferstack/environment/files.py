"""Stack files: where an environment is read from, and what is laid over what."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from inferstack.environment.document import parse_yaml
from inferstack.environment.parse import parse_environment
from inferstack.environment.problems import MISSING, InvalidEnvironment, Problem
from inferstack.environment.schema import Environment

CONFIG_KEY = "inferstack:environment"
BASE_KEY = "inferstack:base"
"""Names the environment that a stack's own object is laid over: a slot stack names its environment and says only what differs."""
FINDINGS_KEY = "inferstack:findings"
"""Set to `shown` by `inferstack plan`, which shows what is wrong; without it the program stops at planning errors."""
SLOT_KEY = "inferstack:slot"
"""What a promotion changed in a slot (`models`, `engine`, `slots.resources`, …), laid over the environment of that slot's stack."""


def load_environment(stacks: Path, name: str) -> Environment:
    """Read ``stacks/Pulumi.<name>.yaml`` and return its environment; raises InvalidEnvironment."""
    file = stacks / f"Pulumi.{name}.yaml"
    if not file.is_file():
        names = environment_names(stacks)
        close = difflib.get_close_matches(name, names, n=1)
        raise InvalidEnvironment(
            str(file), [Problem("environment", name, f"one of {', '.join(names) or '(none found)'}", close[0] if close else None)]
        )
    return parse_environment(read_raw(file), str(file))


def environment_names(stacks: Path) -> list[str]:
    """Names of the environments that have a file in ``stacks``."""
    return sorted(file.name.removeprefix("Pulumi.").removesuffix(".yaml") for file in stacks.glob("Pulumi.*.yaml") if file.is_file())


def lay_over(base: Any, changes: Any) -> Any:
    """``base`` with the mappings of ``changes`` merged in at any depth; every other value of ``changes`` replaces that of ``base``."""
    if not (isinstance(base, Mapping) and isinstance(changes, Mapping)):
        return changes
    return {**base, **{key: lay_over(base[key], value) if key in base else value for key, value in changes.items()}}


def read_raw(file: Path) -> Any:
    """The environment object of a stack file, laid over that of the environment it names as its base; raises InvalidEnvironment."""
    config = read_config(file)
    if not any(key in config for key in (CONFIG_KEY, BASE_KEY)):
        close = difflib.get_close_matches(CONFIG_KEY, [str(key) for key in config], n=1)
        path, nearest = (f"config.{close[0]}", f"config.{CONFIG_KEY}") if close else (f"config.{CONFIG_KEY}", None)
        raise InvalidEnvironment(str(file), [Problem(path, MISSING, "an environment object", nearest)])
    return resolve_config(file.parent, config, str(file))


def resolve_config(stacks: Path, config: Mapping[str, Any], source: str = "configuration") -> Any:
    """The environment object of a stack's configuration, which `source` names: base, own object and slot settings laid one over the
    other."""
    found = config.get(CONFIG_KEY, {})
    if not isinstance(slot := config.get(SLOT_KEY) or {}, Mapping):
        raise InvalidEnvironment(source, [Problem(f"config.{SLOT_KEY}", slot, "a mapping of settings")])
    if (base := config.get(BASE_KEY)) is not None:
        file = stacks / f"Pulumi.{base}.yaml"
        outer = read_config(file) if file.is_file() else {}
        if CONFIG_KEY not in outer:
            raise InvalidEnvironment(source, [Problem(f"config.{BASE_KEY}", base, "an environment with an object of its own")])
        found = lay_over(outer[CONFIG_KEY], found)
    return _with_configs(stacks, lay_over(found, slot) if slot else found)


def _with_configs(stacks: Path, raw: Any) -> Any:
    """The environment with the content of each model's config.json in place of the file's name."""
    models = raw.get("models") if isinstance(raw, Mapping) else None
    if not isinstance(models, list):
        return raw
    return {**raw, "models": [_with_config(stacks, model, f"models[{index}].config") for index, model in enumerate(models)]}


def _with_config(stacks: Path, model: Any, path: str) -> Any:
    name = model.get("config") if isinstance(model, Mapping) else None
    if not isinstance(name, str):
        return model
    file = stacks / name
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InvalidEnvironment(str(file), [Problem(path, name, f"a JSON file: {getattr(error, 'strerror', None) or error}")]) from None
    return {**model, "config": content}


def read_config(file: Path) -> Mapping[str, Any]:
    """The configuration of a stack file; empty where it has none. Raises InvalidEnvironment for what is no YAML."""
    try:
        if (size := file.stat().st_size) > _LARGEST:
            raise InvalidEnvironment(str(file), [Problem("file", f"{size} bytes", f"at most {_LARGEST} bytes")])
        document = parse_yaml(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidEnvironment(str(file), [Problem("file", MISSING, f"a file that can be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        expected = f"text in UTF-8: byte {error.object[error.start]:#04x} at position {error.start} is none"
        raise InvalidEnvironment(str(file), [Problem("file", MISSING, expected)]) from None
    except yaml.YAMLError as error:
        raise InvalidEnvironment(str(file), [Problem("file", MISSING, f"valid YAML: {_where(error)}")]) from None
    except ValueError as error:
        raise InvalidEnvironment(str(file), [Problem("file", MISSING, f"valid YAML: {error}")]) from None
    except RecursionError:
        raise InvalidEnvironment(str(file), [Problem("file", MISSING, "valid YAML that is not nested this deep")]) from None
    config = document.get("config") if isinstance(document, Mapping) else None
    return config if isinstance(config, Mapping) else {}


_LARGEST = 1_000_000


def _where(error: yaml.YAMLError) -> str:
    """What the parser found, on one line."""
    mark = getattr(error, "problem_mark", None)
    said = str(getattr(error, "problem", None) or error).replace("\n", " ").replace("character '\\t'", "a tab,")
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}" if mark else said
