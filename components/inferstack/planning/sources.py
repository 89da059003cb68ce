"""Where a model comes from, as plan and manifests read it; pure."""

import re
from dataclasses import dataclass

_HUB = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model of the hub: `hf://ORG/REPO[@REVISION][/FILE]`; empty where nothing is said."""

    repository: str
    revision: str
    file: str


def hub_source(source: str) -> HubSource | None:
    """The parts of a source of the hub; None for another one."""
    found = _HUB.fullmatch(source.rstrip("/"))
    return HubSource(*(part or "" for part in found.groups())) if found else None
