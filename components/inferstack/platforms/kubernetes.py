"""Promotion on a cluster: slots are Deployments, the route is an HTTPRoute, journal and lease are objects beside them.

The route's rules belong to this code alone: they are made of the template that the environment's update owns (ConfigMap `inferstack-route`)
and of the weights, and written by compare-and-swap. Pulumi ignores `spec.rules`, so no update moves traffic and none conflicts.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from inferstack.cluster.names import GATEWAY, JOURNAL, ROUTE, ROUTE_TEMPLATE, SLOT_LABEL, slot_name
from inferstack.environment import Environment, SlotName
from inferstack.platforms.agreement import agree
from inferstack.platforms.kept import Kept
from inferstack.platforms.kube_api import KubeApi, Object
from inferstack.platforms.kube_fence import Fence
from inferstack.platforms.kube_reach import Reach
from inferstack.platforms.kube_render import Renderer, manifests, object_path
from inferstack.platforms.kube_route import read_weights, within
from inferstack.platforms.kube_scalers import Scalers
from inferstack.platforms.kube_slots import SlotObjects, observe_slot, rendered_spec
from inferstack.platforms.kube_state import KubeState
from inferstack.platforms.pairs import compare
from inferstack.platforms.slot_client import SlotClient, exercise, seen_through
from inferstack.platforms.under_lease import under_lease
from inferstack.promotion.lease import Lease
from inferstack.promotion.measure import Snapshot
from inferstack.promotion.platform import (
    Agreement,
    Exercise,
    Health,
    Observation,
    PlatformError,
    Seen,
    SlotFailed,
    SlotObservation,
    Unavailable,
)
from inferstack.promotion.spec import SlotSpec, with_spec
from inferstack.promotion.weights import Weights
from inferstack.serving.manifests.engines import profile
from inferstack.serving.manifests.groups import replica_groups
from inferstack.serving.manifests.route import TEMPLATE_KEY, route_rules

KEY_VARIABLE = "INFERSTACK_KEY"
URL_VARIABLE = "INFERSTACK_URL"
LOG_LINES = 12


class KubernetesPlatform(Kept):
    """The slots of one namespace. `key`: an API key of the environment, for requests of promotion's own."""

    def __init__(self, api: KubeApi, name: str, environment: Environment, renderer: Renderer, reach: Reach, key: str | None = None) -> None:
        self._api, self._name, self._environment, self._renderer, self._reach, self._key = api, name, environment, renderer, reach, key
        self._state = KubeState(api, environment.namespace, name)
        super().__init__(self._state)
        self._fence = Fence(api, self._state, lambda: self._held)
        self._route_version = ""
        namespace = environment.namespace
        self._core = f"/api/v1/namespaces/{namespace}"
        self._apps = f"/apis/apps/v1/namespaces/{namespace}"
        self._routes = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}"
        self._scalers = Scalers(environment.scaling.renderer, namespace)

    # ---- looking

    def observe(self) -> Observation:
        route = self._api.get(f"{self._routes}/httproutes/{ROUTE}")
        weights, named = None, frozenset[SlotName]()
        drift: tuple[str, ...] = ()
        if route is not None:
            self._route_version = route["metadata"]["resourceVersion"]
            weights, named = read_weights(route["spec"].get("rules") or [])
            drift = self._route_drift(route, weights)
        slots = {slot: self._slot(slot, weights) for slot in SlotName}
        live = weights.sole if weights else None
        if live is not None and slots[live].spec is None and slots[live].replicas:
            drift = (*drift, f"the workload of {live} was changed since it was rendered")
        return Observation(self.now(), weights, slots, named, drift)

    def _route_drift(self, route: Object, weights: Weights | None) -> tuple[str, ...]:
        if weights is None:
            return ("the route's backends are not the two slots",)
        wanted = _rules(self._template(), weights)
        live = route["spec"].get("rules") or []
        same = len(live) == len(wanted) and all(within(new, old) for new, old in zip(wanted, live, strict=True))
        return () if same else ("the route's rules differ from their template",)

    def _template(self) -> list[Object]:
        found = self._api.get(f"{self._core}/configmaps/{ROUTE_TEMPLATE}")
        try:
            rules: list[Object] = json.loads((found or {})["data"][TEMPLATE_KEY])
        except (KeyError, ValueError):
            raise PlatformError(
                f"ConfigMap {ROUTE_TEMPLATE} in {self._environment.namespace} has no {TEMPLATE_KEY}: run `pulumi up` of {self._name}"
            ) from None
        return rules

    def _slot(self, slot: SlotName, weights: Weights | None) -> SlotObservation:
        deployments = [found for group in self._groups if (found := self._api.get(f"{self._apps}/deployments/{slot_name(slot, group)}"))]
        if len(deployments) < len(self._groups):
            return SlotObservation(in_flight=0, waiting=f"{slot} was not rendered yet")
        pods = self._pods(slot)
        objects = SlotObjects(
            deployments=deployments,
            floors=[self._scalers.floor(scaler) for _, scaler in self._scalers_of(slot)],
            pods=pods,
            endpoint_slices=[
                piece
                for group in self._groups
                for piece in self._api.items(
                    f"/apis/discovery.k8s.io/v1/namespaces/{self._environment.namespace}/endpointslices",
                    labelSelector=f"kubernetes.io/service-name={slot_name(slot, group)}",
                )
            ],
            events=[] if pods else self._api.items(f"{self._core}/events", fieldSelector="type=Warning"),
            logs={pod["metadata"]["name"]: self._last_lines(pod) for pod in pods if _crashed(pod)},
        )
        idle = weights is not None and not weights.reach(slot)
        unpromoted = self._unpromoted(slot, deployments)
        seen = observe_slot(objects, unpromoted)
        return observe_slot(objects, unpromoted, self._in_flight(slot)) if idle and seen.ready else seen

    def _unpromoted(self, slot: SlotName, deployments: list[Object]) -> SlotSpec | None:
        """The environment file's spec, when that is what runs: what `pulumi up` or a GitOps controller made before any promotion."""
        annotations = deployments[0]["spec"]["template"]["metadata"].get("annotations", {})
        generation = annotations.get("inferstack.dev/generation", "1")
        spec = SlotSpec.from_environment(self._environment, int(generation) if generation.isdigit() else 1)
        wanted = [item for item in manifests(self._name, self._environment, slot, spec) if item["kind"] == "Deployment"]
        same = all(
            _image_and_config(new) == _image_and_config(old)
            for new, old in zip(wanted, sorted(deployments, key=lambda item: len(item["metadata"]["name"])), strict=True)
        )
        return spec if same and rendered_spec(deployments) is None else None

    @property
    def _groups(self) -> list[str]:
        return [group.name for group in replica_groups(self._environment)]

    def _pods(self, slot: SlotName) -> list[Object]:
        return self._api.items(f"{self._core}/pods", labelSelector=f"app.kubernetes.io/name=inferstack,{SLOT_LABEL}={slot}")

    def _scalers_of(self, slot: SlotName) -> list[tuple[str, Object]]:
        """(path, object) of each group that has one."""
        paths = [path for group in self._groups if (path := self._scalers.path(slot, group))]
        return [(path, found) for path in paths if (found := self._api.get(path))]

    def _last_lines(self, pod: Object) -> str:
        try:
            path = f"{self._core}/pods/{pod['metadata']['name']}/log"
            return self._api.text(path, previous="true", tailLines=str(LOG_LINES)).strip()
        except PlatformError:
            return ""

    def _in_flight(self, slot: SlotName) -> int | None:
        """Over all pods that run; None when one of them does not say."""
        total = 0
        for pod in self._pods(slot):
            if pod.get("status", {}).get("phase") != "Running":
                continue
            with self._reach.client(pod, self._environment.engine.port) as client:
                found = self._slot_client(client, pod).readiness().get("in_flight")
            if not isinstance(found, int):
                return None
            total += found
        return total

    # ---- changing

    def acquire_lease(self, holder: str) -> Lease:
        """A lease that was not given back is taken over with the objects: what its holder still tries to write is refused."""
        before = self.read_lease()
        lease = super().acquire_lease(holder)
        if before is not None and before.holder:
            self._fence.stamp(self._written())
        return lease

    def _written(self) -> list[str]:
        """Every object that a promotion writes, the journal among them."""
        spec = SlotSpec.from_environment(self._environment)  # the objects of a slot have the same names whatever it runs
        rendered = [object_path(item) for slot in SlotName for item in manifests(self._name, self._environment, slot, spec)]
        return [f"{self._core}/configmaps/{JOURNAL}", f"{self._routes}/httproutes/{ROUTE}", *rendered]

    def render(self, slot: SlotName, spec: SlotSpec) -> None:
        self._fence.check()
        with under_lease(self.renew_lease):
            self._renderer.render(slot, spec, self._fence)

    def set_weights(self, weights: Weights) -> None:
        rules = _rules(self._template(), weights)
        self._fence.check()
        body = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": ROUTE, "namespace": self._environment.namespace, "resourceVersion": self._route_version},
            "spec": {"rules": rules},
        }
        written = self._api.apply(f"{self._routes}/httproutes/{ROUTE}", body)
        self._route_version = written["metadata"]["resourceVersion"]

    def scale(self, slot: SlotName, replicas: int) -> None:
        if replicas > 0:
            self.set_floor(slot, replicas)
        for group in self._groups:
            self._fence.merge(f"{self._apps}/deployments/{slot_name(slot, group)}", {"spec": {"replicas": replicas}}, "/scale")

    def set_floor(self, slot: SlotName, floor: int) -> None:
        for path, scaler in self._scalers_of(slot):
            self._fence.merge(path, self._scalers.with_floor(scaler, floor))

    # ---- measuring

    def verify(self, slot: SlotName) -> Health:
        with self._clients(slot) as clients:
            if not clients:
                return Health(False, "it has no ready pod")
            return next((health for client in clients if not (health := client.verify()).ok), Health(True))

    def probe(self, n: int, header: tuple[str, str] | None = None) -> tuple[Seen, ...]:
        with self.gateway_client() as client:
            return seen_through(client, n, self._key, header)

    def gateway_client(self) -> httpx.Client:
        """A client of the gateway, under the route's host name."""
        headers = {"Host": self._environment.gateway.hostname} if self._environment.gateway.hostname else {}
        return httpx.Client(base_url=self.gateway_url(), headers=headers, trust_env=False)

    def gateway_url(self) -> str:
        """Where the gateway answers: INFERSTACK_URL, else the address that its status names."""
        if named := os.environ.get(URL_VARIABLE):
            return named.rstrip("/").removesuffix("/v1")
        wanted = self._environment.gateway
        namespace, _, name = (wanted.existing or f"{self._environment.namespace}/{GATEWAY}").partition("/")
        found = self._api.get(f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/{name}")
        addresses = (found or {}).get("status", {}).get("addresses") or []
        if not addresses:
            raise Unavailable(f"Gateway {namespace}/{name} has no address yet; set {URL_VARIABLE} where it is reached another way")
        return f"{'https' if wanted.tls_secret else 'http'}://{addresses[0]['value']}:{wanted.port}"

    def warm(self, slot: SlotName) -> None:
        with self._clients(slot) as clients:
            for client in clients:
                for model in client.models:
                    timing = client.generate(model)
                    if timing.error:
                        raise SlotFailed(f"{slot} did not answer its first request: {model}: {timing.error}")

    def exercise(self, slot: SlotName, n: int, *, repeated: bool = False) -> Exercise:
        with self._clients(slot) as clients:
            return exercise(clients, n, repeated=repeated)

    def compare(self, slot: SlotName, against: SlotName, n: int) -> tuple[Exercise, Exercise]:
        with self._clients(slot) as mine, self._clients(against) as theirs:
            return compare(mine, theirs, n, self._api.sleep)

    def agreement(self, slot: SlotName, against: SlotName) -> Agreement | None:
        with self._clients(slot) as mine, self._clients(against) as theirs:
            return agree(mine, theirs)

    def metrics(self, slot: SlotName) -> Snapshot | None:
        found = {}
        for pod in self._running(slot):
            with self._reach.client(pod, self._metrics_port) as client:
                counters = self._slot_client(client, pod).counters()
            if counters is None:
                return None
            found[pod["metadata"]["name"]] = counters
        return found or None

    @property
    def _metrics_port(self) -> int:
        return profile(self._environment.engine.kind).own_metrics_port or self._environment.engine.port

    def _running(self, slot: SlotName) -> list[Object]:
        return [
            pod
            for pod in self._pods(slot)
            if pod.get("status", {}).get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
        ]

    @contextmanager
    def _clients(self, slot: SlotName) -> Iterator[list[SlotClient]]:
        """Of the replicas that are ready: one that a scaler has just added is still loading, and refuses what it is asked."""
        with ExitStack() as stack:
            found = []
            for pod in filter(_is_ready, self._running(slot)):
                client = stack.enter_context(self._reach.client(pod, self._environment.engine.port))
                found.append(self._slot_client(client, pod))
            yield found

    def _slot_client(self, client: httpx.Client, pod: Object) -> SlotClient:
        return SlotClient(client, "/metrics", self._models(pod), self._key)

    def _models(self, pod: Object) -> list[str]:
        """Models of the pod's group of replicas, by its slot's spec."""
        component = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component", "")
        slot = SlotName(pod["metadata"]["labels"][SLOT_LABEL])
        deployment = self._api.get(f"{self._apps}/deployments/{slot_name(slot)}")
        spec = rendered_spec([deployment]) if deployment else None
        environment = with_spec(self._environment, spec) if spec else self._environment
        groups = replica_groups(environment)
        own = next((group for group in groups if group.name and component.endswith(f"-{group.name}")), groups[0])
        return [model.name for model in own.models]


def _is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions", ()))


def _rules(template: list[Object], weights: Weights) -> list[Object]:
    found = weights.cohort
    cohort = None if found is None else (found.name, found.value, str(found.slot))
    return route_rules(template, {"blue": weights.blue, "green": weights.green}, cohort)


def _image_and_config(deployment: Object) -> tuple[Any, ...]:
    template = deployment["spec"]["template"]
    annotations = template["metadata"].get("annotations", {})
    return (
        [container.get("image") for container in template["spec"]["containers"]],
        annotations.get("inferstack.dev/config"),
        annotations.get("inferstack.dev/generation"),
    )


def _crashed(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return any((status.get("state", {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff" for status in statuses)
