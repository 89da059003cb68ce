"""A small API server in this process: objects with resourceVersions, server-side apply, the controllers that promotion waits for.

It answers httpx requests, so the real adapter talks to it. Every request is recorded and can be a crash point; what must hold is looked
at whenever something is written.
"""

import copy
import json
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx

from inferstack.cluster.names import ROUTE
from inferstack.environment import Environment, SlotName, parse_environment
from inferstack.platforms.kube_api import KubeApi
from inferstack.platforms.kube_render import ApplyRenderer, object_path
from inferstack.platforms.kube_route import read_weights
from inferstack.platforms.kubernetes import KubernetesPlatform
from inferstack.promotion.commands import Session, policy_of
from inferstack.promotion.journal import Journal, Policy, load
from inferstack.promotion.measure import Histogram
from inferstack.promotion.platform import Exercise
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Weights
from inferstack.serving.manifests.route import route, template_map
from inferstack.serving.manifests.slot import slot_objects
from tests.components.promotion.world import Broken, Killed

IMAGE = "registry.example/runtime@sha256:" + "1" * 64
NAME = "staging"
Object = dict[str, Any]


def environment(**changes: Any) -> Environment:
    return parse_environment(
        {
            "platform": "kubernetes",
            "namespace": "ns",
            "models": [{"name": "m", "source": "hf://org/m", "quantization": "int8"}],
            "engine": {"image": IMAGE},
            "slots": {"replicas": {"min": 2, "max": 4}, "idle_replicas": 1},
            "gateway": {"class_name": "traefik"},
            "drain": {"pre_stop_seconds": 1, "seconds": 4, "grace_seconds": 10},
            "promotion": {"steps": [100], "ready_seconds": 60, "settle_count": 5, "gates": {"min_requests": 5, "window_seconds": 4}},
            **changes,
        }
    )


class ClusterWorld:
    """Objects, controllers, time. `start_seconds`: until a pod is ready; `trouble(pod)` may write a status of its own."""

    def __init__(self, settings: Environment | None = None) -> None:
        self.environment = settings or environment()
        self.time = 1_000_000.0
        self.version = 0
        self.objects: dict[str, Object] = {}
        self.requests: list[str] = []
        self.kill_at: tuple[int, str] | None = None
        self.before_request: Callable[[int, KubeProcess], None] = lambda index, process: None
        self.fail: Callable[[str, str], httpx.Response | None] = lambda method, path: None
        self.start_seconds = 2.0
        self.trouble: Callable[[Object], Object | None] = lambda pod: None
        self.errors_of: dict[str, float] = {}
        """Share of failing requests by generation."""
        self.delay = 0.5
        self.routed: list[tuple[float, str]] = []
        self.gone: set[str] = set()
        self.served = 0
        self.on_route: Callable[[Weights], object] = lambda weights: None
        self.posts: dict[str, int] = {}
        for slot in SlotName:
            for group in slot_objects(self.environment, slot, name=NAME):
                for manifest in group.all():
                    self.put(object_path(manifest), manifest)
        for manifest in (route(self.environment), template_map(self.environment)):
            self.put(object_path(manifest), manifest)
        self.reconcile()
        self.advance(30)

    # ---- storage

    def put(self, path: str, body: Object) -> Object:
        """Store; a write that changes nothing makes no new version."""
        stored = copy.deepcopy(body)
        before = self.objects.get(path)
        if before is not None and _without_version(before) == _without_version(stored):
            return before
        self.version += 1
        stored["metadata"]["resourceVersion"] = str(self.version)
        generation = before["metadata"].get("generation", 0) if before else 0
        changed = before is None or before.get("spec") != stored.get("spec")
        stored["metadata"]["generation"] = generation + 1 if changed else generation
        self.objects[path] = stored
        if path.endswith(f"/httproutes/{ROUTE}") and changed:
            self.routed.append((self.time + self.delay, json.dumps(stored["spec"]["rules"])))
        return stored

    def delete(self, path: str) -> None:
        """The object with what controllers made of it."""
        name = self.objects.pop(path)["metadata"]["name"]
        if "/services/" in path:
            del self.objects[f"/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/{name}-x"]
        for pod in self.kind("pods") if "/deployments/" in path else ():
            if pod["owner"] == name:
                del self.objects[self._pod_path(pod)]

    def kind(self, plural: str) -> list[Object]:
        return [value for path, value in self.objects.items() if path.split("/")[-2] == plural]

    def find(self, plural: str, name: str) -> Object | None:
        return next((value for value in self.kind(plural) if value["metadata"]["name"] == name), None)

    # ---- time and controllers

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.reconcile()

    def reconcile(self) -> None:
        """Deployments make pods of their template, Services list the ready ones, scalers keep their floor."""
        for deployment in self.kind("deployments"):
            self._deployment(deployment)
        for service in self.kind("services"):
            self._endpoints(service)

    def _deployment(self, deployment: Object) -> None:
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        scaler = self.find("horizontalpodautoscalers", name)
        if scaler and spec.get("replicas", 1) > 0:
            spec["replicas"] = max(spec.get("replicas", 1), scaler["spec"]["minReplicas"])
        registration = self.find("configmaps", f"{name}-scaling")
        if registration and spec.get("replicas", 1) > 0:  # an autoscaler that sees no load, and always takes what its bounds allow
            spec["replicas"] = int(registration["data"]["min_instances"])
        spec.setdefault("replicas", 1)
        deployment["status"] = {"observedGeneration": deployment["metadata"]["generation"], "conditions": []}
        template = json.dumps(spec["template"]["metadata"]) + spec["template"]["spec"]["containers"][0]["image"]
        pods = [pod for pod in self.kind("pods") if pod["owner"] == name]
        for pod in pods:
            if pod["template"] != template or pods.index(pod) >= spec["replicas"]:
                del self.objects[self._pod_path(pod)]
        have = [pod for pod in self.kind("pods") if pod["owner"] == name]
        for _ in range(spec["replicas"] - len(have)):
            self.version += 1
            pod = {
                "metadata": {**copy.deepcopy(spec["template"]["metadata"]), "name": f"{name}-{self.version}", "namespace": "ns"},
                "spec": copy.deepcopy(spec["template"]["spec"]),
                "owner": name,
                "template": template,
                "started": self.time,
            }
            self.objects[self._pod_path(pod)] = pod
        for pod in self.kind("pods"):
            pod["ready"] = self.trouble(pod) is None and self.time - pod["started"] >= self.start_seconds
            pod["status"] = self.trouble(pod) or {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": str(pod["ready"])}],
                "podIP": "10.0.0.1",
                "containerStatuses": [{"restartCount": 0, "state": {"running": {}}}],
            }

    def _pod_path(self, pod: Object) -> str:
        return f"/api/v1/namespaces/ns/pods/{pod['metadata']['name']}"

    def _endpoints(self, service: Object) -> None:
        name, wanted = service["metadata"]["name"], service["spec"]["selector"].items()
        pods = [pod for pod in self.kind("pods") if wanted <= pod["metadata"]["labels"].items()]
        self.objects[f"/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/{name}-x"] = {
            "metadata": {"name": f"{name}-x", "labels": {"kubernetes.io/service-name": name}, "resourceVersion": str(self.version)},
            "endpoints": [{"targetRef": {"name": pod["metadata"]["name"]}, "conditions": {"ready": pod["ready"]}} for pod in pods],
        }

    def ready(self, slot: SlotName) -> int:
        found = self.objects.get(f"/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/inferstack-{slot}-x", {"endpoints": []})
        return sum(endpoint["conditions"]["ready"] for endpoint in found["endpoints"])

    def weights(self) -> Any:
        return read_weights(self.objects[f"/apis/gateway.networking.k8s.io/v1/namespaces/ns/httproutes/{ROUTE}"]["spec"]["rules"])[0]

    def stored(self) -> Journal | None:
        found = self.find("configmaps", "inferstack-journal")
        return load(found["data"]["journal.json"], NAME) if found else None

    # ---- the API server

    def handle(self, request: httpx.Request, process: "KubeProcess") -> httpx.Response:
        if process.dead:
            raise Killed
        index, path = len(self.requests), urllib.parse.unquote(request.url.path)
        self.requests.append(f"{request.method} {path}")
        if self.kill_at == (index, "before"):
            process.die()
        self.before_request(index, process)
        self.advance(0.005)
        if (failed := self.fail(request.method, path)) is not None:
            return failed
        body = json.loads(request.content) if request.content else None
        answer = self._answer(request, path, body)
        if request.method != "GET":
            self.reconcile()
        if self.kill_at == (index, "after"):
            process.die()
        return answer

    def _answer(self, request: httpx.Request, path: str, body: Object | None) -> httpx.Response:
        method, query = request.method, dict(request.url.params)
        if path.endswith("/log"):
            return httpx.Response(200, text="line one\ncannot open model")
        if path.endswith("/scale"):
            assert body is not None
            path = path.removesuffix("/scale")
            if _outdated(self.objects.get(path), body):
                return _status(409, "the object has been modified")
            return httpx.Response(200, json=self.put(path, merged(self.objects[path], {"spec": {"replicas": body["spec"]["replicas"]}})))
        if method == "GET" and path.split("/")[-1] in ("pods", "endpointslices", "events"):
            return httpx.Response(200, json={"items": self._list(path, query)})
        current = self.objects.get(path)
        if method == "GET":
            return httpx.Response(200, json=current) if current else _status(404, f"{path} not found")
        assert body is not None
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return _status(409, "already exists")
            return httpx.Response(201, json=self.put(path, body))
        if _outdated(current, {"metadata": body["preconditions"]} if "preconditions" in body else body):
            return _status(409, "the object has been modified")
        if method == "DELETE" and current is not None:
            self.delete(path)
            return httpx.Response(200, json={"kind": "Status"})
        if current is None and "apply" not in request.headers["content-type"]:
            return _status(404, f"{path} not found")
        after = body if method == "PUT" else merged(current or {}, body)
        self._check(path, current, after)
        return httpx.Response(200, json=self.put(path, after))

    def _list(self, path: str, query: dict[str, str]) -> list[Object]:
        wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
        found = self.kind(path.split("/")[-1])
        return [item for item in found if wanted.items() <= item["metadata"].get("labels", {}).items()]

    def _check(self, path: str, before: Object | None, after: Object) -> None:
        """What no write may do."""
        if path.endswith(f"/httproutes/{ROUTE}"):
            weights, named = read_weights(after["spec"]["rules"])
            if named != frozenset(SlotName) or weights is None:
                raise Broken("I3: the route does not name both slots")
            old = read_weights(before["spec"]["rules"])[0] if before else None
            for slot in SlotName:
                if old and weights.reach(slot) and (weights.of(slot) > old.of(slot) or not old.reach(slot)) and self.ready(slot) == 0:
                    raise Broken(f"I1: weight on {slot} without a ready endpoint")
            self.on_route(weights)
        if "/deployments/" in path and before is not None:
            slot = SlotName(path.split("/")[-1].split("-")[1])
            if self.weights().reach(slot) and before["spec"]["template"] != after["spec"]["template"]:
                raise Broken(f"I2: {slot} was changed while it had weight")

    # ---- pods and gateway

    def serve(self, request: httpx.Request, slot: SlotName, generation: str) -> httpx.Response:
        """What a runtime answers."""
        headers = {"x-inferstack-slot": str(slot), "x-inferstack-generation": generation}
        if request.url.path == "/readyz":
            return httpx.Response(200, json={"ready": True, "in_flight": 0}, headers=headers)
        if request.url.path == "/metrics":
            return httpx.Response(200, text=self._metrics(slot, generation))
        if request.method == "POST" and json.loads(request.content).get("logprobs"):
            return httpx.Response(200, json={"choices": [{"logprobs": {"top_logprobs": [None, {"a": -1.0, "b": -2.0}]}}]}, headers=headers)
        if request.method == "POST":
            self.posts[slot] = self.posts.get(slot, 0) + 1
            events = [{"choices": [{"text": "a", "finish_reason": None}]}, {"choices": [{"text": "b", "finish_reason": "stop"}]}]
            stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
            return httpx.Response(200, text=stream + "data: [DONE]\n\n", headers=headers)
        return httpx.Response(200, json={}, headers=headers)

    def _metrics(self, slot: SlotName, generation: str) -> str:
        """Counters that grow with time, as live traffic makes them."""
        requests = int((self.time - 1_000_000) * 10) + self.posts.get(slot, 0)
        errors = int(requests * self.errors_of.get(generation, 0.0))
        return "\n".join(
            [
                f'inferstack_requests_total{{route="/v1/completions",model="m",code="200",tier="d"}} {requests - errors}',
                f'inferstack_requests_total{{route="/v1/completions",model="m",code="500",tier="d"}} {errors}',
                *(
                    f'inferstack_{name}_seconds_bucket{{model="m",le="{le}"}} {requests}'
                    for name in ("time_to_first_token", "inter_token")
                    for le in ("0.1", "+Inf")
                ),
                f'inferstack_generated_tokens_total{{model="m"}} {requests * 8}',
                "process_resident_memory_bytes 1e9",
                f"process_start_time_seconds {self.objects and 1}",
            ]
        )

    def through_gateway(self, request: httpx.Request) -> httpx.Response:
        self.served += 1
        self.advance(0.01)
        rules = json.loads(next(rules for since, rules in reversed(self.routed) if since <= self.time))
        weights = read_weights(rules)[0]
        assert weights is not None
        slot = SlotName.BLUE if (self.served * 37) % 100 < weights.blue else SlotName.GREEN
        if weights.cohort is not None and request.headers.get(weights.cohort.name) == weights.cohort.value:
            slot = weights.cohort.slot
        if self.ready(slot) == 0:
            return httpx.Response(503)
        deployment = self.find("deployments", f"inferstack-{slot}")
        assert deployment is not None
        return self.serve(request, slot, deployment["spec"]["template"]["metadata"]["annotations"]["inferstack.dev/generation"])


def _status(code: int, message: str) -> httpx.Response:
    return httpx.Response(code, json={"kind": "Status", "code": code, "message": message})


def _without_version(item: Object) -> Object:
    return item | {"metadata": {key: value for key, value in item["metadata"].items() if key not in ("resourceVersion", "generation")}}


def _outdated(current: Object | None, body: Object) -> bool:
    """The write is about a version that the object does not have any more."""
    wanted = body.get("metadata", {}).get("resourceVersion")
    return bool(wanted) and (current is None or current["metadata"]["resourceVersion"] != wanted)


def merged(old: Object, new: Object) -> Object:
    """Maps field by field, lists whole, as apply treats the lists that promotion writes."""
    found = dict(old)
    for key, value in new.items():
        found[key] = merged(found[key], value) if isinstance(value, dict) and isinstance(found.get(key), dict) else copy.deepcopy(value)
    return found


class PodReach:
    def __init__(self, world: ClusterWorld, process: "KubeProcess") -> None:
        self.world, self.process = world, process

    @contextmanager
    def client(self, pod: Object, port: int) -> Iterator[httpx.Client]:
        slot = SlotName(pod["metadata"]["labels"]["inferstack.dev/slot"])
        generation = pod["metadata"]["annotations"]["inferstack.dev/generation"]
        transport = httpx.MockTransport(lambda request: self.world.serve(request, slot, generation))
        with httpx.Client(base_url="http://pod", transport=transport) as client:
            yield client


class KubeProcess(KubernetesPlatform):
    """The real adapter of one promoter, over this world, with its time."""

    def __init__(self, world: ClusterWorld, holder: str = "alice@host:1", renderer: Any = None) -> None:
        self.world, self.holder, self.dead = world, holder, False
        transport = httpx.MockTransport(lambda request: world.handle(request, self))
        api = KubeApi(httpx.Client(base_url="https://cluster", transport=transport), sleep=self.sleep)
        super().__init__(api, NAME, world.environment, renderer or ApplyRenderer(NAME, world.environment), PodReach(world, self), "key")

    def die(self) -> None:
        self.dead = True
        self.world.gone.add(self.holder)
        raise Killed

    def now(self) -> float:
        return self.world.time

    elapsed = now

    def sleep(self, seconds: float) -> None:
        if self.dead:
            raise Killed
        self.world.advance(max(seconds, 0.001))

    def exercise(self, slot: SlotName, n: int, *, repeated: bool = False) -> Exercise:
        return _timed(super().exercise(slot, n, repeated=repeated))

    def compare(self, slot: SlotName, against: SlotName, n: int) -> tuple[Exercise, Exercise]:
        mine, theirs = super().compare(slot, against, n)
        return _timed(mine), _timed(theirs)

    def gateway_client(self) -> httpx.Client:
        return httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(self.world.through_gateway))

    def session(self) -> Session:
        base = SlotSpec.from_environment(self.world.environment)
        return Session(NAME, self, self, lambda event: None, self.holder, self.holder.partition("@")[0], base)


def _timed(sent: Exercise) -> Exercise:
    """The same with times of this world: how long it really took would decide how much more is asked, and no request had its place."""
    times = Histogram.of([0.1] * int(sent.ttft.total))
    return replace(sent, seconds=1.0, ttft=times, inter_token=times)


def kube_policy(world: ClusterWorld, **changes: Any) -> Policy:
    return policy_of(world.environment, **changes)
