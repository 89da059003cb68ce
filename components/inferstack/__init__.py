"""Quantized LLM inference in production, planned before money is spent and promoted without losing a request.

The components for Pulumi programs, each imported when it is first used, so that the package stays light without the `cloud` extra:

    from inferstack import GkeCluster, GkeGpuPool, InferenceService
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inferstack.cloud.aks.cache import AksCache as AksCache
    from inferstack.cloud.aks.cluster import AksCluster as AksCluster
    from inferstack.cloud.aks.gateway import AksGateway as AksGateway
    from inferstack.cloud.aks.pool import AksGpuPool as AksGpuPool
    from inferstack.cloud.aks.storage import AksStorage as AksStorage
    from inferstack.cloud.gke.cache import GkeCache as GkeCache
    from inferstack.cloud.gke.cluster import GkeCluster as GkeCluster
    from inferstack.cloud.gke.pool import GkeGpuPool as GkeGpuPool
    from inferstack.cloud.gke.storage import GkeStorage as GkeStorage
    from inferstack.cluster.gpu import GpuDevicePlugin as GpuDevicePlugin
    from inferstack.cluster.monitor import Monitoring as Monitoring
    from inferstack.cluster.namespace import ServingNamespace as ServingNamespace
    from inferstack.cluster.redis import RedisCache as RedisCache
    from inferstack.serving.autoscaler import Autoscaler as Autoscaler
    from inferstack.serving.route import InferenceRoute as InferenceRoute
    from inferstack.serving.service import InferenceService as InferenceService
    from inferstack.serving.slot import InferenceSlot as InferenceSlot

COMPONENTS = {
    "AksCache": "inferstack.cloud.aks.cache",
    "AksCluster": "inferstack.cloud.aks.cluster",
    "AksGateway": "inferstack.cloud.aks.gateway",
    "AksGpuPool": "inferstack.cloud.aks.pool",
    "AksStorage": "inferstack.cloud.aks.storage",
    "Autoscaler": "inferstack.serving.autoscaler",
    "GkeCache": "inferstack.cloud.gke.cache",
    "GkeCluster": "inferstack.cloud.gke.cluster",
    "GkeGpuPool": "inferstack.cloud.gke.pool",
    "GkeStorage": "inferstack.cloud.gke.storage",
    "GpuDevicePlugin": "inferstack.cluster.gpu",
    "InferenceRoute": "inferstack.serving.route",
    "InferenceService": "inferstack.serving.service",
    "InferenceSlot": "inferstack.serving.slot",
    "Monitoring": "inferstack.cluster.monitor",
    "RedisCache": "inferstack.cluster.redis",
    "ServingNamespace": "inferstack.cluster.namespace",
}
"""Every component that other programs may use, and the module that holds it."""


def __getattr__(name: str) -> Any:
    if name in COMPONENTS:
        return getattr(import_module(COMPONENTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *COMPONENTS})
