"""The environment `cluster` on a running machine: deploy it, look at its slots, move its weights, take it away."""

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import httpx
from machine import client
from machine.layout import Machine, project_root

from harness import keys, manifests
from harness.load import MODEL

NAMESPACE = "inferstack"
ENVIRONMENT = "cluster"
SLOTS = ("blue", "green")
_PASSING = ("events", "leases")
_ROUTE = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes/inferstack"


@dataclass(frozen=True)
class Deployed:
    """The environment as it was applied. ``seconds``: from its first object to two ready slots; ``before``: what was there before it."""

    machine: Machine
    manifests: list[manifests.Manifest]
    seconds: float
    before: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        return self.machine.gateway_url

    def reset(self) -> None:
        """What a test may have changed as it was deployed: one ready replica in each slot, all weight on blue."""
        changing = [one for one in self.manifests if one["kind"] in ("Deployment", "HorizontalPodAutoscaler", "HTTPRoute")]
        self.kubectl("replace", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": changing}))
        for ended in ("Failed", "Succeeded"):
            self.kubectl("delete", "pods", f"--field-selector=status.phase={ended}", "--ignore-not-found")
        for slot in SLOTS:
            self.wait_ready(slot)
        self.wait_answers("blue")

    def kubectl(self, *arguments: str, check: bool = True, given: str | None = None) -> str:
        done = client.kubectl(self.machine, f"--namespace={NAMESPACE}", *arguments, check=check, given=given)
        return done.stdout + ("" if check else done.stderr)

    def pods(self, slot: str) -> list[Any]:
        """The slot's pods that neither ended nor are on their way out, oldest first."""
        staying = [
            pod
            for pod in self.all_pods(slot)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]
        return sorted(staying, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def all_pods(self, slot: str) -> list[Any]:
        """The slot's pods with those that are ending or have ended."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=inferstack.dev/slot%3D{slot}"
        pods: list[Any] = client.read(self.machine, path)["items"]
        return pods

    def ready_addresses(self, slot: str) -> set[str]:
        """Pod addresses that the EndpointSlices of the slot's Service say are ready."""
        query = f"labelSelector=kubernetes.io/service-name%3Dinferstack-{slot}"
        slices = client.read(self.machine, f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices?{query}")["items"]
        endpoints = [endpoint for one in slices for endpoint in one.get("endpoints") or []]
        return {address for endpoint in endpoints if endpoint["conditions"].get("ready") for address in endpoint["addresses"]}

    def deployment(self, slot: str) -> Any:
        return client.read(self.machine, f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/inferstack-{slot}")

    def wait_ready(self, slot: str, replicas: int | None = None, seconds: float = 240) -> float:
        """Wait until ``replicas`` (by default as many as are asked for) of the newest template are ready endpoints; return the seconds."""

        def settled() -> bool:
            d = self.deployment(slot)
            asked, s = d["spec"]["replicas"], d["status"]
            newest = (
                s.get("observedGeneration") == d["metadata"]["generation"] and s.get("updatedReplicas", 0) == s.get("replicas", 0) == asked
            )
            return newest and asked == (replicas or asked) and len(self.ready_addresses(slot)) == asked

        return client.wait(f"slot {slot} ready", seconds, settled)

    def fix_replicas(self, slot: str, replicas: int) -> None:
        """Exactly ``replicas``, whatever the load, and ready."""
        self.ask_replicas(slot, replicas)
        self.wait_ready(slot, replicas)

    def ask_replicas(self, slot: str, replicas: int) -> None:
        """Have the slot's scaler want ``replicas``, whatever the load."""
        bounds = {"spec": {"minReplicas": replicas, "maxReplicas": replicas}}
        self.kubectl("patch", "horizontalpodautoscaler", f"inferstack-{slot}", "--type=merge", f"--patch={json.dumps(bounds)}")
        self.kubectl("scale", f"deployment/inferstack-{slot}", f"--replicas={replicas}")

    def weights(self) -> dict[str, int]:
        backends = client.read(self.machine, _ROUTE)["spec"]["rules"][-1]["backendRefs"]
        return {one["name"].removeprefix("inferstack-"): one["weight"] for one in backends}

    def set_weights(self, blue: int, green: int) -> float:
        """Write both weights; returns the time at which the API server had them."""
        change = [{"op": "replace", "path": f"/spec/rules/0/backendRefs/{i}/weight", "value": w} for i, w in enumerate((blue, green))]
        self.kubectl("patch", "httproute", "inferstack", "--type=json", f"--patch={json.dumps(change)}")
        return time.time()

    def ask(self, seconds: float = 30) -> httpx.Response:
        """One short answer through the Gateway."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"Say hello. ({time.time()})"}], "max_tokens": 2}
        with httpx.Client(timeout=seconds) as one:
            return one.post(f"{self.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {keys.KEY}"})

    def wait_answers(self, slot: str, seconds: float = 60) -> None:
        """Wait until the Gateway answers from ``slot``."""

        def answers() -> bool:
            try:
                answer = self.ask()
            except httpx.HTTPError:
                return False
            return answer.status_code == 200 and answer.headers["x-inferstack-slot"] == slot

        client.wait(f"answers of {slot} through the Gateway", seconds, answers)


def deploy(machine: Machine) -> Deployed:
    """Apply every object of the environment, with API keys, and wait until both slots are ready and the Gateway answers."""
    objects = manifests.rendered(project_root(), ENVIRONMENT)
    own = [one for one in objects if one["kind"] == "Namespace"]
    rest = [keys.secret("inferstack-keys", NAMESPACE), *(one for one in objects if one["kind"] != "Namespace")]
    before = frozenset(everything(machine))
    started = time.monotonic()
    client.apply(machine, own)
    client.apply(machine, rest)
    deployed = Deployed(machine, rest, 0)
    for slot in SLOTS:
        deployed.wait_ready(slot)
    seconds = time.monotonic() - started
    deployed.wait_answers("blue")
    return Deployed(machine, rest, seconds, before)


def everything(machine: Machine) -> set[str]:
    """Every object that the server lists, but for kinds that it writes and forgets by itself and for the namespaces of single tests."""
    kinds = client.kubectl(machine, "api-resources", "--verbs=list,delete", "--output=name").stdout.split()
    wanted = [kind for kind in kinds if kind.partition(".")[0] not in _PASSING]
    columns = "--output=custom-columns=:kind,:metadata.namespace,:metadata.name"
    listed = client.kubectl(machine, "get", ",".join(wanted), "--all-namespaces", "--ignore-not-found", columns)
    found = {" ".join(line.split()) for line in listed.stdout.splitlines() if line.strip()}
    return {one for one in found if not re.search(r" t-[0-9a-f]{8}\b", one)}


def remove(machine: Machine) -> None:
    """Delete the namespace and wait until it is gone."""
    client.kubectl(machine, "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
