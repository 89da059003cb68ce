"""Where the scaler of a slot keeps its fewest and most replicas, for each `scaling.renderer`. Pure."""

from dataclasses import dataclass
from typing import Any

from inferstack.cluster.names import registration_name, slot_name
from inferstack.environment import SlotName
from inferstack.promotion.platform import PlatformError

Object = dict[str, Any]


@dataclass(frozen=True)
class _Kind:
    """One kind of object: its place in the API, and the fields `least` and `most` of `section`."""

    place: str
    section: str
    least: str
    most: str
    missing: int
    """The fewest replicas of an object that names none."""
    written: type[int] | type[str] = int


_KINDS = {
    "hpa": _Kind("apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers", "spec", "minReplicas", "maxReplicas", 1),
    "keda": _Kind("apis/keda.sh/v1alpha1/namespaces/{}/scaledobjects", "spec", "minReplicaCount", "maxReplicaCount", 0),
    "autoscaler": _Kind("api/v1/namespaces/{}/configmaps", "data", "min_instances", "max_instances", 0, str),
}


@dataclass(frozen=True)
class Scalers:
    """The scalers of an environment; `renderer` is `none` where there are none."""

    renderer: str
    namespace: str

    def path(self, slot: SlotName, group: str) -> str | None:
        """Where the API server keeps the scaler of a group of replicas."""
        kind = _KINDS.get(self.renderer)
        if kind is None:
            return None
        name = registration_name(slot, group) if self.renderer == "autoscaler" else slot_name(slot, group)
        return f"/{kind.place.format(self.namespace)}/{name}"

    def floor(self, scaler: Object) -> int:
        """The fewest replicas that a scaler keeps; raises PlatformError for what is no number."""
        kind = _KINDS[self.renderer]
        return self._number(scaler, kind.least, kind.missing)

    def with_floor(self, scaler: Object, floor: int) -> Object:
        """The change that makes a scaler keep at least `floor`."""
        kind = _KINDS[self.renderer]
        most = self._number(scaler, kind.most, floor)
        change = {kind.least: floor} | ({kind.most: floor} if most < floor else {})
        return {kind.section: {key: kind.written(value) for key, value in change.items()}}

    def _number(self, scaler: Object, key: str, missing: int) -> int:
        value = (scaler.get(_KINDS[self.renderer].section) or {}).get(key, missing)
        try:
            return int(value)
        except ValueError:
            name = scaler["metadata"]["name"]
            raise PlatformError(f"{scaler.get('kind', 'the scaler')} {name}: {key} is {value!r}: expected a number of replicas") from None
