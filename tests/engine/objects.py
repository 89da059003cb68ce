"""Kubernetes objects as a rendering and as an update make them, so that they can be compared."""

from pathlib import Path
from typing import Any

import yaml

from inferstack.program.render import KUSTOMIZATION
from tests.components.kubernetes import rendered_from


def rendered(root: Path, name: str, outputs: dict[str, Any] | None = None) -> dict[tuple[str, ...], Any]:
    """What `inferstack render` writes for the environment `name` of the project in `root`, by `key`."""
    files = rendered_from(root, name, outputs=outputs).files
    objects = [yaml.safe_load(text) for file, text in files.items() if file != KUSTOMIZATION]
    return {key(item): item for item in objects}


def key(item: dict[str, Any]) -> tuple[str, ...]:
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def without_annotations_of_the_engine(item: dict[str, Any]) -> dict[str, Any]:
    """The object without what only the engine reads or its provider adds: its own annotations."""
    meta = dict(item["metadata"])
    annotations = {key: value for key, value in meta.pop("annotations", {}).items() if not key.startswith("pulumi.com/")}
    return {**item, "metadata": meta | ({"annotations": annotations} if annotations else {})}
