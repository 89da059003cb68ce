"""What a cluster lacks for an environment is told from what its API server answers."""

import copy
from typing import Any

import httpx
import pytest

from inferstack.environment import Environment, parse_environment
from inferstack.platforms.kube_api import KubeApi
from inferstack.platforms.kube_needs import look, path_of
from inferstack.promotion.platform import PlatformError

GATEWAY_API = "/apis/gateway.networking.k8s.io/v1"
ACCEPTED = {"status": {"conditions": [{"type": "Accepted", "status": "True"}]}}
WHOLE: dict[str, Any] = {
    "/version": {"minor": "31+", "gitVersion": "v1.31.2"},
    "/api/v1": {"resources": [{"name": "services", "kind": "Service", "namespaced": True}, {"name": "services/status", "kind": "Service"}]},
    "/apis/apps/v1": {
        "resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": True},
            {"name": "statefulsets", "kind": "StatefulSet", "namespaced": True},
        ]
    },
    "/apis/autoscaling/v2": {"resources": [{"name": "horizontalpodautoscalers", "kind": "HorizontalPodAutoscaler", "namespaced": True}]},
    GATEWAY_API: {"resources": [{"name": "gateways", "kind": "Gateway", "namespaced": True}]},
    f"{GATEWAY_API}/gatewayclasses": {"items": [{"metadata": {"name": "envoy"}}]},
    f"{GATEWAY_API}/gatewayclasses/envoy": ACCEPTED,
    "/apis/storage.k8s.io/v1/storageclasses": {
        "items": [{"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}]
    },
    "/apis/metrics.k8s.io/v1beta1": {},
    "/apis/custom.metrics.k8s.io/v1beta1": {},
    "/api/v1/nodes": {"items": [{"status": {"allocatable": {"cpu": "4", "nvidia.com/gpu": "1"}}}]},
    "/api/v1/namespaces/ns/secrets/keys": {},
}


def _object(kind: str, version: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "ns"}, "spec": spec}


def _pods(**limits: str) -> dict[str, Any]:
    limits = {name.replace("_gpu", ".com/gpu"): amount for name, amount in limits.items()}
    return {"template": {"spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}}}


OBJECTS = [
    _object("Service", "v1"),
    _object("Deployment", "apps/v1", **_pods(cpu="1", nvidia_gpu="1")),
    _object("StatefulSet", "apps/v1", volumeClaimTemplates=[{"spec": {}}, {"spec": {"storageClassName": "fast"}}]),
    _object("Gateway", "gateway.networking.k8s.io/v1", gatewayClassName="envoy"),
    _object("HorizontalPodAutoscaler", "autoscaling/v2", metrics=[{"type": "Resource"}, {"type": "Pods"}]),
]
ENVIRONMENT = parse_environment(
    {
        "platform": "kubernetes",
        "models": [{"name": "m", "source": "hf://org/m", "quantization": "int8"}],
        "engine": {"image": "registry.example/runtime:1"},
        "gateway": {"class_name": "envoy"},
    }
)


def _lacks(answers: dict[str, Any], environment: Environment = ENVIRONMENT) -> list[str]:
    def answer(request: httpx.Request) -> httpx.Response:
        found = answers.get(request.url.path)
        if isinstance(found, int):
            return httpx.Response(found, json={"message": "no"})
        return httpx.Response(404, json={"message": "not found"}) if found is None else httpx.Response(200, json=found)

    api = KubeApi(httpx.Client(base_url="https://cluster", transport=httpx.MockTransport(answer)), sleep=lambda _: None)
    return [str(lack) for lack in look(api, environment, OBJECTS, ["ns/keys"])[1]]


def test_a_cluster_with_everything_lacks_nothing() -> None:
    assert _lacks(WHOLE) == []


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/version", {"minor": "29", "gitVersion": "v1.29.14"}, "Kubernetes v1.29.14: needs 1.30"),
        (GATEWAY_API, None, "no Gateway of gateway.networking.k8s.io/v1, which x is: install the Gateway API"),
        (f"{GATEWAY_API}/gatewayclasses/envoy", None, "no GatewayClass envoy: set gateway.class_name; there are: envoy"),
        (f"{GATEWAY_API}/gatewayclasses/envoy", {}, "not accepted (no controller has looked at it)"),
        (
            f"{GATEWAY_API}/gatewayclasses/envoy",
            {"status": {"conditions": [{"type": "Accepted", "status": "False", "message": "bad parameters"}]}},
            "not accepted (bad parameters)",
        ),
        ("/apis/storage.k8s.io/v1/storageclasses", {"items": [{"metadata": {"name": "fast"}}]}, "no StorageClass is the default one"),
        ("/apis/storage.k8s.io/v1/storageclasses", {"items": []}, "no StorageClass fast"),
        ("/apis/metrics.k8s.io/v1beta1", None, "metrics.k8s.io/v1beta1, which nobody serves: install metrics-server"),
        ("/apis/metrics.k8s.io/v1beta1", 503, "metrics.k8s.io/v1beta1, which nobody serves: install metrics-server"),
        ("/apis/custom.metrics.k8s.io/v1beta1", None, "install a Prometheus adapter"),
        ("/api/v1/nodes", {"items": [{"status": {"allocatable": {"cpu": "4"}}}]}, "no node offers nvidia.com/gpu"),
        ("/api/v1/namespaces/ns/secrets/keys", None, "no Secret keys in ns"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(path: str, answer: Any, said: str) -> None:
    changed = copy.deepcopy(WHOLE) | {path: answer}
    found = _lacks(changed)
    assert any(said in lack for lack in found), found


def test_several_lacks_are_told_at_once() -> None:
    assert len(_lacks({"/version": WHOLE["/version"]})) >= 8


def test_what_the_server_refuses_to_say_is_no_lack_but_an_error() -> None:
    with pytest.raises(PlatformError, match="403"):
        _lacks(WHOLE | {"/apis/storage.k8s.io/v1/storageclasses": 403})


def test_paths_are_those_of_the_kinds_that_the_server_serves() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=WHOLE[request.url.path]) if request.url.path in WHOLE else httpx.Response(404, json={})

    api = KubeApi(httpx.Client(base_url="https://cluster", transport=httpx.MockTransport(answer)), sleep=lambda _: None)
    served, _ = look(api, ENVIRONMENT, OBJECTS, ())
    assert path_of(served, OBJECTS[0]) == "/api/v1/namespaces/ns/services/x"
    assert path_of(served, OBJECTS[3]) == f"{GATEWAY_API}/namespaces/ns/gateways/x"
