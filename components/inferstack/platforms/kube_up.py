"""An environment brought up on a cluster that is there already, and taken down again: the objects that `inferstack render` writes.

Where Pulumi manages the objects, it goes on doing so: `up` and `down` refuse and name the stack.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from inferstack.cluster.names import JOURNAL, LEASE, ROUTE, SLOT_LABEL, component_labels
from inferstack.environment import Environment, SlotName
from inferstack.local.keys import ensure_keys
from inferstack.local.layout import Layout
from inferstack.local.progress import Report, phase
from inferstack.platforms.kube_api import KubeApi, Object
from inferstack.platforms.kube_needs import Lack, Served, kinds, look, path_of
from inferstack.platforms.kube_open import by_pulumi
from inferstack.platforms.kubernetes import KubernetesPlatform
from inferstack.program.render import KUSTOMIZATION, render_environment
from inferstack.promotion.platform import Conflict, Observation, PlatformError, SlotFailed, Unavailable
from inferstack.serving.manifests.engines import profile

MANAGER = "inferstack-up"
GONE_SECONDS = 180.0
_OWN = "app.kubernetes.io/name=inferstack"
_MANAGED = "app.kubernetes.io/managed-by"


class Lacking(PlatformError):
    """The cluster does not have what the environment needs; `lacks` names everything at once."""

    def __init__(self, name: str, lacks: Sequence[Lack]) -> None:
        self.lacks = tuple(lacks)
        super().__init__(f"this cluster cannot hold {name}:\n" + "\n".join(f"  {lack}" for lack in lacks))


@dataclass(frozen=True)
class Brought:
    """What `up` left: the objects' number, slots that a promotion had changed and that were left alone, and the Gateway's address."""

    objects: int
    left_alone: tuple[str, ...]
    url: str | None


@dataclass(frozen=True)
class Cluster:
    """An environment and the cluster that it goes to."""

    root: Path
    name: str
    environment: Environment
    api: KubeApi
    platform: KubernetesPlatform
    sleep: Callable[[float], None] = time.sleep

    def up(self, report: Report) -> Brought:
        """Apply what is missing or changed and wait for both slots. Weights, and slots that were promoted, stay as they are.

        Raises Lacking, SlotFailed with the reason of a slot that does not become ready, or PlatformError.
        """
        self._refuse_pulumi()
        with phase("render", report) as current:
            objects, secrets = self._rendered()
            current.detail = f"{len(objects)} objects"
        with phase("cluster", report) as current:
            own = f"{self.environment.namespace}/{self.environment.access.keys_secret}"
            made_here = not profile(self.environment.engine.kind).checks_key
            served, lacks = look(self.api, self.environment, objects, [one for one in secrets if not (made_here and one == own)])
            if lacks:
                raise Lacking(self.name, lacks)
        promoted = self._promoted()
        with phase("objects", report) as current:
            for item in filter(_is_namespace, objects):
                self._apply(served, item)
            if own in secrets and made_here:
                current.detail = self._keys()
            for item in objects:
                if not _is_namespace(item) and item["metadata"].get("labels", {}).get(SLOT_LABEL) not in promoted:
                    self._apply(served, item)
        with phase("slots", report) as current:
            seen = self._wait_ready()
            current.detail = ", ".join(f"{slot} {found.ready}/{found.replicas}" for slot, found in seen.slots.items())
        return Brought(len(objects), promoted, self._url())

    def down(self, report: Report) -> tuple[int, str | None]:
        """Delete what `up` made and wait until it is gone; the number of objects, and why the namespace stays where it does."""
        self._refuse_pulumi()
        with phase("objects", report) as current:
            objects, _ = self._rendered()
            served = kinds(self.api, objects)
            known = [item for item in objects if (item["apiVersion"], item["kind"]) in served and not _is_namespace(item)]
            paths = [path_of(served, item) for item in reversed(known)] + list(self._kept_paths())
            there = [path for path in paths if self.api.delete(path)]
            self._wait_gone(there)
            current.detail = f"{len(there)} deleted"
        with phase("namespace", report) as current:
            found = [
                namespace for item in objects if _is_namespace(item) and (namespace := self.api.get(_namespace(item["metadata"]["name"])))
            ]
            kept = {item["metadata"]["name"]: others for item in found if (others := self._others(item))}
            gone = [_namespace(item["metadata"]["name"]) for item in found if item["metadata"]["name"] not in kept]
            for path in gone:
                self.api.delete(path)
            self._wait_gone(gone)
            if kept:
                current.skip("; ".join(f"{name} stays: {others}" for name, others in kept.items()))
        return len(there) + len(gone), "; ".join(kept.values()) or None

    # ---- pieces

    def _refuse_pulumi(self) -> None:
        if by_pulumi(self.api, self.environment):
            raise PlatformError(f"Pulumi manages the objects in {self.environment.namespace}; use `pulumi up` and `pulumi destroy`")

    def _rendered(self) -> tuple[list[Object], tuple[str, ...]]:
        rendered = render_environment(self.root, self.name, self.environment)
        return [yaml.safe_load(text) for file, text in rendered.files.items() if file != KUSTOMIZATION], rendered.secrets

    def _promoted(self) -> tuple[str, ...]:
        """Slots belong to the promotion from the first one on."""
        journal, _ = self.platform.read_journal()
        return tuple(map(str, SlotName)) if journal is not None else ()

    def _apply(self, served: Served, item: Object) -> None:
        path = path_of(served, item)
        if item["kind"] == "HTTPRoute" and item["metadata"]["name"] == ROUTE and (live := self.api.get(path)) is not None:
            version = live["metadata"]["resourceVersion"]  # whoever moves weights meanwhile wins
            item = item | {
                "metadata": item["metadata"] | {"resourceVersion": version},
                "spec": item["spec"] | {"rules": live["spec"]["rules"]},
            }
        self.api.apply(path, item, manager=MANAGER)

    def _keys(self) -> str:
        """The Secret with keys, made here where nobody has brought one."""
        path = f"/api/v1/namespaces/{self.environment.namespace}/secrets"
        name = self.environment.access.keys_secret
        layout = Layout(self.root, self.name)
        if self.api.get(f"{path}/{name}") is not None:
            return f"the keys of Secret {name} stay"
        layout.directory.mkdir(parents=True, exist_ok=True)
        ensure_keys(layout, self.environment.access.tiers)
        labels = {**component_labels("keys"), _MANAGED: "inferstack"}
        metadata = {"name": name, "namespace": self.environment.namespace, "labels": labels}
        content = {"keys.json": layout.keys.read_text(encoding="utf-8")}
        try:
            self.api.create(path, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": content})
        except Conflict:
            return f"the keys of Secret {name} stay"
        return f"API key in {layout.api_key}"

    def _wait_ready(self) -> Observation:
        until = time.monotonic() + self.environment.promotion.ready_seconds
        while True:
            seen = self.platform.observe()
            behind = {slot: found for slot, found in seen.slots.items() if found.replicas == 0 or found.ready < found.replicas}
            live = {slot: found for slot, found in behind.items() if found.replicas}
            failed = [f"{slot}: {found.failure}" for slot, found in live.items() if found.failure]
            if failed:
                raise SlotFailed("; ".join(failed))
            if not live and seen.weights is not None and any(found.ready for found in seen.slots.values()):
                return seen
            if time.monotonic() > until:
                reasons = "; ".join(f"{slot}: {found.waiting or 'not ready'}" for slot, found in behind.items())
                raise SlotFailed(f"not ready within {self.environment.promotion.ready_seconds:g} s: {reasons}")
            self.sleep(1)

    def _url(self) -> str | None:
        try:
            return self.platform.gateway_url()
        except Unavailable:
            return None

    def _kept_paths(self) -> Iterator[str]:
        """What promotions and `up` itself made beside the rendered objects."""
        namespace = self.environment.namespace
        yield f"/api/v1/namespaces/{namespace}/configmaps/{JOURNAL}"
        yield f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}"
        keys = f"/api/v1/namespaces/{namespace}/secrets/{self.environment.access.keys_secret}"
        found: dict[str, Any] = self.api.get(keys) or {"metadata": {}}
        if found["metadata"].get("labels", {}).get(_MANAGED) == "inferstack":
            yield keys

    def _wait_gone(self, paths: Sequence[str]) -> None:
        pods = f"/api/v1/namespaces/{self.environment.namespace}/pods"
        until = time.monotonic() + GONE_SECONDS + self.environment.drain.grace_seconds
        while left := [*(path for path in paths if self.api.get(path) is not None), *self._names(pods)]:
            if time.monotonic() > until:
                raise PlatformError(f"still there: {', '.join(left)}; `kubectl describe` shows what holds them")
            self.sleep(0.5)

    def _names(self, path: str) -> list[str]:
        return [one["metadata"]["name"] for one in self.api.items(path, labelSelector=_OWN)]

    def _others(self, namespace: Object) -> str | None:
        """Why the namespace is somebody else's too: who wrote it, or what they have in it."""
        name = namespace["metadata"]["name"]
        writers = {entry["manager"] for entry in namespace["metadata"].get("managedFields", ()) if "subresource" not in entry} - {MANAGER}
        if writers:
            return f"{', '.join(sorted(writers))} wrote it too"
        core, apps = _namespace(name), f"/apis/apps/v1/namespaces/{name}"
        kinds = [f"{core}/{kind}" for kind in ("pods", "services", "secrets", "configmaps", "persistentvolumeclaims")]
        found = [
            f"{path.rpartition('/')[2]} {one['metadata']['name']}"
            for path in [*kinds, f"{apps}/deployments", f"{apps}/statefulsets"]
            for one in self.api.items(path)
            if one["metadata"]["name"] != "kube-root-ca.crt"
        ]
        return f"it holds {', '.join(sorted(found))}" if found else None


def _is_namespace(item: Object) -> bool:
    return bool(item["kind"] == "Namespace")


def _namespace(name: str) -> str:
    return f"/api/v1/namespaces/{name}"
