"""What the objects of an environment need of a cluster that somebody else set up; each lack is one sentence with its remedy.

served, lacks = look(api, environment, objects, secrets)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferstack.environment import Environment
from inferstack.platforms.kube_api import KubeApi, Object
from inferstack.promotion.platform import Unavailable

LEAST_MINOR = 30
"""Kubernetes 1.30: the first that knows a sleep before the stop without a feature gate (KEP-3960)."""
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_REMEDIES = {
    "gateway.networking.k8s.io": "install the Gateway API's custom resources and a controller for them",
    "keda.sh": "install KEDA, or set scaling.renderer: hpa",
    "monitoring.coreos.com": "install the Prometheus operator, or set monitoring.backend",
    "external-secrets.io": "install the External Secrets operator, or bring the Secrets yourself and leave `secrets` out",
    "leaderworkerset.x-k8s.io": "install LeaderWorkerSet, or set gpu and engine so that one node holds a replica",
}
_METRICS = {
    "Resource": (("metrics.k8s.io/v1beta1",), "install metrics-server, or set scaling.renderer: none"),
    "Pods": (
        ("custom.metrics.k8s.io/v1beta2", "custom.metrics.k8s.io/v1beta1"),
        "install a Prometheus adapter, or set scaling.policy: cpu, or scaling.renderer: keda",
    ),
}
"""By kind of an HPA's metric: the APIs that can answer it, and what to do without."""


@dataclass(frozen=True)
class Lack:
    """Something that the cluster does not have."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


@dataclass(frozen=True)
class Kind:
    """A kind as the server serves it."""

    plural: str
    namespaced: bool


Served = Mapping[tuple[str, str], Kind]
"""Kinds by apiVersion and kind."""


def look(api: KubeApi, environment: Environment, objects: Sequence[Object], secrets: Iterable[str]) -> tuple[Served, list[Lack]]:
    """The kinds that the server serves, and everything that it lacks. `secrets`: `NAMESPACE/NAME` of those that must exist.

    Raises PlatformError where the server cannot be asked.
    """
    served = kinds(api, objects)
    lacks = [*_version(api), *_unserved(objects, served)]
    if any(item["kind"] == "Gateway" and (item["apiVersion"], "Gateway") in served for item in objects) or environment.gateway.existing:
        lacks += _gateways(api, environment, objects)
    lacks += [*_storage(api, objects), *_metrics(api, objects), *_devices(api, objects), *_secrets(api, secrets)]
    return served, lacks


def kinds(api: KubeApi, objects: Iterable[Object]) -> Served:
    """What the server serves of the API versions of `objects`."""
    return {key: kind for version in sorted({item["apiVersion"] for item in objects}) for key, kind in _kinds(api, version)}


def path_of(served: Served, item: Object) -> str:
    """Where the server keeps an object."""
    kind, version = served[item["apiVersion"], item["kind"]], item["apiVersion"]
    inside = f"/namespaces/{item['metadata']['namespace']}" if kind.namespaced else ""
    return f"{_base(version)}{inside}/{kind.plural}/{item['metadata']['name']}"


def _base(version: str) -> str:
    return "/api/v1" if version == "v1" else f"/apis/{version}"


def _kinds(api: KubeApi, version: str) -> Iterator[tuple[tuple[str, str], Kind]]:
    found = api.get(_base(version)) or {}
    for one in found.get("resources", ()):
        if "/" not in one["name"]:
            yield (version, one["kind"]), Kind(one["name"], one["namespaced"])


def _version(api: KubeApi) -> Iterator[Lack]:
    found = api.get("/version") or {}
    minor = "".join(letter for letter in str(found.get("minor", "")) if letter.isdigit())
    if minor and int(minor) < LEAST_MINOR:
        yield Lack(f"the server is Kubernetes {found.get('gitVersion')}", f"needs 1.{LEAST_MINOR} or newer")


def _unserved(objects: Sequence[Object], served: Served) -> Iterator[Lack]:
    missing = sorted({(item["apiVersion"], item["kind"]) for item in objects} - set(served))
    for version, kind in missing:
        names = sorted(item["metadata"]["name"] for item in objects if (item["apiVersion"], item["kind"]) == (version, kind))
        group = version.partition("/")[0]
        yield Lack(
            f"the server has no {kind} of {version}, which {', '.join(names)} is", _REMEDIES.get(group, f"install what serves {group}")
        )


def _gateways(api: KubeApi, environment: Environment, objects: Sequence[Object]) -> Iterator[Lack]:
    base = "/apis/gateway.networking.k8s.io/v1"
    if environment.gateway.existing:
        namespace, _, name = environment.gateway.existing.partition("/")
        if api.get(f"{base}/namespaces/{namespace}/gateways/{name}") is None:
            yield Lack(f"there is no Gateway {name} in {namespace}", "set gateway.existing to one that is there")
    for wanted in sorted({item["spec"]["gatewayClassName"] for item in objects if item["kind"] == "Gateway"}):
        found = api.get(f"{base}/gatewayclasses/{wanted}")
        if found is None:
            there = sorted(one["metadata"]["name"] for one in api.items(f"{base}/gatewayclasses"))
            yield Lack(f"there is no GatewayClass {wanted}", f"set gateway.class_name; there are: {', '.join(there) or 'none'}")
            continue
        conditions = {one["type"]: one for one in found.get("status", {}).get("conditions", ())}
        if conditions.get("Accepted", {}).get("status") != "True":
            why = conditions.get("Accepted", {}).get("message") or "no controller has looked at it"
            yield Lack(f"GatewayClass {wanted} is not accepted ({why})", "start its controller, or set gateway.class_name to another")


def _storage(api: KubeApi, objects: Sequence[Object]) -> Iterator[Lack]:
    claims = [item for item in objects if item["kind"] == "PersistentVolumeClaim"]
    claims += [claim for item in objects for claim in item.get("spec", {}).get("volumeClaimTemplates", ())]
    wanted = {claim["spec"].get("storageClassName") for claim in claims} - {""}
    if not wanted:
        return
    classes = {
        one["metadata"]["name"]: one["metadata"].get("annotations", {}) for one in api.items("/apis/storage.k8s.io/v1/storageclasses")
    }
    there = ", ".join(sorted(classes)) or "none"
    for name in sorted(name for name in wanted if name is not None and name not in classes):
        yield Lack(f"there is no StorageClass {name}", f"name one that is there: {there}")
    if None in wanted and not any(notes.get(_DEFAULT_CLASS) == "true" for notes in classes.values()):
        yield Lack("no StorageClass is the default one", f"annotate one with {_DEFAULT_CLASS}=true; there are: {there}")


def _metrics(api: KubeApi, objects: Sequence[Object]) -> Iterator[Lack]:
    asked = {metric["type"] for item in objects if item["kind"] == "HorizontalPodAutoscaler" for metric in item["spec"]["metrics"]}
    for kind in sorted(asked & set(_METRICS)):
        versions, remedy = _METRICS[kind]
        if not any(_answers(api, version) for version in versions):
            yield Lack(f"the scalers ask {versions[0]}, which nobody serves", remedy)


def _answers(api: KubeApi, version: str) -> bool:
    try:
        return api.get(f"/apis/{version}") is not None
    except Unavailable:  # registered, and its server is down
        return False


def _devices(api: KubeApi, objects: Sequence[Object]) -> Iterator[Lack]:
    wanted = {name for item in objects for name in _extended(item)}
    nodes = api.items("/api/v1/nodes") if wanted else []
    for name in sorted(wanted):
        if not any(node.get("status", {}).get("allocatable", {}).get(name, "0") != "0" for node in nodes):
            yield Lack(f"no node offers {name}", "add nodes that have it, with their device plugin; pods would wait for one for ever")


def _extended(item: Object) -> Iterator[str]:
    """Resources that only nodes with a device have: their names carry a domain."""
    for container in item.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
        limits: Mapping[str, Any] = container.get("resources", {}).get("limits", {})
        yield from (name for name in limits if "/" in name and not name.startswith("requests."))


def _secrets(api: KubeApi, secrets: Iterable[str]) -> Iterator[Lack]:
    for reference in secrets:
        namespace, _, name = reference.partition("/")
        if api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}") is None:
            yield Lack(f"there is no Secret {name} in {namespace}", "pods wait for it; docs/guide/clouds.md says what it holds")
