"""Journal and lease as Kubernetes objects: a ConfigMap and a Lease, both written by compare-and-swap on resourceVersion."""

import contextlib
from datetime import UTC, datetime

from inferstack.cluster.names import JOURNAL, LEASE, component_labels
from inferstack.platforms.kube_api import KubeApi, Object
from inferstack.promotion import lease as leases
from inferstack.promotion.journal import Journal, dump, load
from inferstack.promotion.lease import Lease
from inferstack.promotion.platform import PlatformError

JOURNAL_KEY = "journal.json"


class KubeState:
    """Both objects of the environment that one namespace holds."""

    def __init__(self, api: KubeApi, namespace: str, environment: str) -> None:
        self._api = api
        self._environment = environment
        self._namespace = namespace
        self._maps = f"/api/v1/namespaces/{namespace}/configmaps"
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    def read_journal(self) -> tuple[Journal | None, str]:
        found = self._api.get(f"{self._maps}/{JOURNAL}")
        if found is None:
            return None, ""
        text = found.get("data", {}).get(JOURNAL_KEY, "")
        return load(text, self._environment, f"ConfigMap {JOURNAL} in {self._namespace}"), found["metadata"]["resourceVersion"]

    def write_journal(self, journal: Journal, expected_version: str, held: Lease | None) -> str:
        """Raises Conflict, or LeaseLost when `held` is no longer the current lease."""
        self.check_lease(held)
        body = self._object("v1", "ConfigMap", JOURNAL) | {"data": {JOURNAL_KEY: dump(journal)}}
        if not expected_version:
            written = self._api.create(self._maps, body)
            self._keep_if_held(written, held)
        else:
            body["metadata"]["resourceVersion"] = expected_version
            written = self._api.apply(f"{self._maps}/{JOURNAL}", body)
        return str(written["metadata"]["resourceVersion"])

    def _keep_if_held(self, written: Object, held: Lease | None) -> None:
        """A journal that did not exist could be made by a promoter that slept: it is taken back, unless somebody went on with it."""
        try:
            self.check_lease(held)
        except leases.LeaseLost:
            with contextlib.suppress(PlatformError):
                self._api.delete(f"{self._maps}/{JOURNAL}", written["metadata"]["resourceVersion"])
            raise

    def read_lease(self) -> Lease | None:
        return self._read()[0]

    def acquire_lease(self, holder: str, now: float, *, holder_gone: bool) -> Lease:
        """Raises LeaseHeld; Conflict when two asked at once."""
        current, version = self._read()
        return self._write(leases.acquire(current, holder, now, holder_gone=holder_gone), version)

    def renew_lease(self, held: Lease, now: float) -> Lease:
        """Raises LeaseLost."""
        current, version = self._read()
        return self._write(leases.renew(current, held, now), version)

    def release_lease(self, held: Lease) -> None:
        current, version = self._read()
        freed = leases.release(current, held)
        if freed is not None and freed != current:
            self._write(freed, version)

    def check_lease(self, held: Lease | None) -> None:
        """Raises LeaseLost unless `held` is the current lease."""
        leases.check(self.read_lease(), held or Lease("nobody", 0, 0, 0))

    def _read(self) -> tuple[Lease | None, str]:
        found = self._api.get(f"{self._leases}/{LEASE}")
        if found is None:
            return None, ""
        spec = found.get("spec", {})
        lease = Lease(
            holder=spec.get("holderIdentity") or "",
            generation=int(spec.get("leaseTransitions") or 0),
            acquired=_seconds(spec.get("acquireTime")),
            renewed=_seconds(spec.get("renewTime")),
            seconds=float(spec.get("leaseDurationSeconds") or leases.SECONDS),
        )
        return lease, found["metadata"]["resourceVersion"]

    def _write(self, lease: Lease, version: str) -> Lease:
        body = self._object("coordination.k8s.io/v1", "Lease", LEASE) | {
            "spec": {
                "holderIdentity": lease.holder,
                "leaseTransitions": lease.generation,
                "acquireTime": _time(lease.acquired),
                "renewTime": _time(lease.renewed),
                "leaseDurationSeconds": int(lease.seconds),
            }
        }
        if not version:
            self._api.create(self._leases, body)
        else:
            body["metadata"]["resourceVersion"] = version
            self._api.replace(f"{self._leases}/{LEASE}", body)
        return lease

    def _object(self, version: str, kind: str, name: str) -> Object:
        labels = {**component_labels("promotion"), "app.kubernetes.io/managed-by": "inferstack"}
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": self._namespace, "labels": labels}}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0
