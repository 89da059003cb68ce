"""The components as the engine sees them: inherited providers, what is ignored, what waits for what, what is refused."""

from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pytest

from inferstack.cluster import objects
from inferstack.cluster.namespace import ServingNamespace
from inferstack.cluster.redis import RedisCache
from inferstack.cluster.secrets import external_secrets
from inferstack.environment import InvalidEnvironment
from inferstack.program.monitor import Registration
from inferstack.program.run import run_function
from inferstack.serving.route import InferenceRoute
from inferstack.serving.slot import InferenceSlot
from tests.components.kubernetes import environment, validate


def registered(program: Any, *, preview: bool = True) -> dict[str, Registration]:
    return {item.name: item for item in run_function(program, preview=preview).resources}


def settings(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return environment(changes).model_dump(mode="json")


def everything(changes: dict[str, Any] | None = None, opts: pulumi.ResourceOptions | None = None) -> None:
    found = settings(changes)
    ServingNamespace("namespace", {"settings": found}, opts)
    RedisCache("cache", {"settings": found}, opts)
    InferenceRoute("route", {"settings": found}, opts)
    InferenceSlot("blue", {"settings": found, "slot": "blue", "environment": "test"}, opts)


def everything_under_a_provider(**options: Any) -> None:
    everything(None, pulumi.ResourceOptions(provider=k8s.Provider("mine", context="here"), **options))


@pytest.mark.parametrize("preview", [True, False])
def test_every_object_uses_the_provider_of_its_consumer(preview: bool) -> None:
    found = registered(everything_under_a_provider, preview=preview)
    provider = found["mine"].urn
    objects = [item for item in found.values() if item.type.startswith("kubernetes:")]
    assert len(objects) == 19
    assert all(item.provider.startswith(f"{provider}::") for item in objects)


def test_a_protected_component_protects_all_that_is_in_it() -> None:
    found = registered(lambda: everything_under_a_provider(protect=True))
    assert all(item.protect for item in found.values() if item.type.startswith("kubernetes:"))


def test_every_object_is_a_child_of_its_component() -> None:
    found = registered(everything_under_a_provider)
    parents = {item.urn: item.name for item in found.values()}
    for item in found.values():
        if item.type.startswith("kubernetes:"):
            assert item.name.startswith(parents[item.parent])


def test_what_a_promotion_writes_is_ignored_and_nothing_else() -> None:
    ignored = {name: item.ignore_changes for name, item in registered(everything).items() if item.ignore_changes}
    assert ignored == {"route-route": ("spec.rules",), "blue-scaler": ("spec.minReplicas",)}


def test_with_keda_the_floor_of_the_scaled_object_is_ignored() -> None:
    found = registered(lambda: everything({"scaling": {"renderer": "keda"}}))
    assert found["blue-scaler"].ignore_changes == ("spec.minReplicaCount",)
    assert found["blue-scaler"].type == "kubernetes:keda.sh/v1alpha1:ScaledObject"


def test_without_a_scaler_replicas_start_at_the_floor_and_are_then_the_promotions() -> None:
    workload = registered(lambda: everything({"scaling": {"renderer": "none"}}))["blue-workload"]
    assert workload.inputs["spec"]["replicas"] == 2
    assert workload.ignore_changes == ("spec.replicas",)


def test_pods_start_after_what_they_need_and_the_scaler_after_them() -> None:
    found = registered(everything)
    needs = {found[name].urn for name in ("blue-service-account", "blue-config-map", "blue-network-policy")}
    assert needs <= set(found["blue-workload"].dependencies)
    assert found["blue-workload"].urn in found["blue-scaler"].dependencies
    assert found["route-gateway"].urn in found["route-route"].dependencies


def test_a_slow_load_does_not_time_the_update_out() -> None:
    workload = registered(lambda: everything({"promotion": {"ready_seconds": 1800}}))["blue-workload"]
    assert workload.custom_timeouts == {"create": "1920s", "update": "1920s"}
    assert workload.inputs["spec"]["progressDeadlineSeconds"] == 1860


def test_the_service_is_not_waited_for_because_an_idle_slot_may_be_empty() -> None:
    assert registered(everything)["blue-service"].inputs["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"


@pytest.mark.parametrize("preview", [True, False])
def test_what_the_engine_gets_is_admitted_by_the_strict_schema(preview: bool) -> None:
    for item in registered(lambda: everything({"production": True}), preview=preview).values():
        if item.type.startswith("kubernetes:"):
            validate(item.inputs)


def test_the_escape_hatch_merges_into_an_object_and_refuses_one_that_is_not_there() -> None:
    found = settings()
    changes: dict[str, Any] = {"workload": {"spec": {"template": {"spec": {"nodeSelector": {"disk": "fast"}}}}}}

    def program() -> None:
        InferenceSlot("blue", {"settings": found, "slot": "blue", "environment": "test", "customize": changes})

    spec = registered(program)["blue-workload"].inputs["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["containers"][0]["name"] == "runtime"

    changes["deployment"] = {}
    with pytest.raises(ValueError, match=r"no object deployment; it has .*config_map"):
        run_function(program)


@pytest.mark.parametrize("component", [ServingNamespace, RedisCache, InferenceRoute, InferenceSlot])
def test_a_wrong_environment_ends_before_the_first_resource(component: Any) -> None:
    made: list[str] = []

    def program() -> None:
        wrong = settings() | {"platfrom": "gke", "models": []}
        try:
            component("x", {"settings": wrong, "slot": "blue", "environment": "test"})
        finally:
            made.append("reached")

    with pytest.raises(InvalidEnvironment, match="2 problems"):
        run_function(program)
    assert made == ["reached"]


def test_the_bundle_gives_the_native_resources() -> None:
    kinds: dict[str, str] = {}

    def program() -> None:
        slot = InferenceSlot("blue", {"settings": settings(), "slot": "blue", "environment": "test"})
        kinds["workload"] = type(slot.resources[""].workload).__name__
        kinds["scaler"] = type(slot.resources[""].scaler).__name__

    run_function(program)
    assert kinds == {"workload": "Deployment", "scaler": "HorizontalPodAutoscaler"}


def test_the_quota_holds_both_slots_at_their_most_and_no_more_gpus() -> None:
    gpu = {"gpu": {"accelerator": "nvidia-l4", "count": 2}, "engine": {"kind": "vllm", "tensor_parallel": 2}}
    hard = objects.quota(environment({"slots": {"replicas": {"min": 1, "max": 3}}} | gpu))["spec"]["hard"]
    assert hard["requests.nvidia.com/gpu"] == str(2 * (3 + 1) * 2)
    assert int(hard["pods"]) > 2 * (3 + 1)
    assert "requests.nvidia.com/gpu" not in objects.quota(environment())["spec"]["hard"]


def test_every_secret_that_an_object_refers_to_is_read_from_the_store() -> None:
    found = environment(
        {
            "secrets": {"name": "vault", "prefix": "prod-"},
            "gateway": {"tls_secret": "certificate"},
            "engine": {"pull_secret": "registry"},
            "cache": {"backend": "external", "url_secret": "cache-url"},
            "monitoring": {"receivers": {"page": "pager"}},
        }
    )
    made = external_secrets(found)
    assert {item["metadata"]["name"] for item in made.values()} == {"inferstack-keys", "certificate", "registry", "cache-url", "pager"}
    keys = made["secret_inferstack-keys"]["spec"]
    assert keys["dataFrom"] == [{"extract": {"key": "prod-inferstack-keys"}}]
    assert keys["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": "vault"}
    assert made["secret_certificate"]["spec"]["target"]["template"] == {"type": "kubernetes.io/tls"}
    assert external_secrets(environment()) == {}
