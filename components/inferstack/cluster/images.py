"""Images that environments run beside the engine, pinned by digest in data/images.yaml, and charts, by version in data/charts.yaml."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Every image by its key: name, tag, digest, day and source of the entry."""
    return _read("images.yaml")


@cache
def charts() -> dict[str, dict[str, Any]]:
    """Every Helm chart by its key: name, version, day and source of the entry."""
    return _read("charts.yaml")


def _read(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(files("inferstack.cluster").joinpath(f"data/{name}").read_text(encoding="utf-8"))
    return found


def reference(key: str) -> str:
    """The reference of an image with its digest, for instance `ghcr.io/valkey-io/valkey:8.1.4-alpine@sha256:…`."""
    entry = catalogue()[key]
    return f"{entry['name']}:{entry['tag']}@{entry['digest']}"
