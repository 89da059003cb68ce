"""What an environment may ask its cloud for beside the presets: a cache reached by identity, Azure's own gateway, another subscription."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from inferstack.environment import read_raw
from inferstack.planning import check
from inferstack.program.monitor import Registration
from inferstack.program.run import Run, run_function
from inferstack.serving.stack import deploy
from tests.components.cloud.sdk import mistakes
from tests.components.kubernetes import validate
from tests.components.planning.fixtures import changed

ROOT = Path(__file__).parents[3]
STACKS = ROOT / "tests/engine/stacks"
"""Environments that use what no preset does; the engine lane brings them up and down."""
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"


def settings(cloud: str) -> dict[str, Any]:
    found: dict[str, Any] = read_raw(STACKS / f"Pulumi.services-{cloud}.yaml")
    return found


@cache
def planned(cloud: str, by_identity: bool = True) -> Run:
    raw = changed(settings(cloud), {} if by_identity else {"cache": {"identity": None}})
    config = {"inferstack:environment": raw, "inferstack:findings": "shown"}
    return run_function(lambda: deploy(ROOT / "stacks"), project="inferstack", stack="own", config=config, preview=True)


def one(cloud: str, ending: str) -> Registration:
    (found,) = (item for item in planned(cloud).resources if item.type.endswith(f":{ending}"))
    return found


@pytest.mark.parametrize("cloud", ["gke", "aks"])
def test_the_environment_has_no_findings_and_every_argument_is_known_to_the_sdk(cloud: str) -> None:
    assert [str(finding) for finding in check(settings(cloud)) if finding.severity != "info"] == []
    for item in planned(cloud).resources:
        if item.type.startswith(("gcp:", "azure-native:")):
            assert mistakes(item.type, item.inputs) == [], item.name
        elif item.type.startswith("kubernetes:") and "apiVersion" in item.inputs:
            validate(item.inputs)


def test_memorystore_takes_the_slots_iam_token_and_nothing_else() -> None:
    assert one("gke", "Instance").inputs["authorizationMode"] == "IAM_AUTH"
    (member,) = (item for item in planned("gke").resources if item.inputs.get("role") == "roles/memorystore.dbConnectionUser")
    assert member.inputs["condition"]["expression"] == 'resource.name == "projects/my-project/locations/us-central1/instances/own-cache"'
    assert member.parent.endswith("::own-cache")


def test_azure_managed_redis_takes_the_workloads_entra_token_and_no_key() -> None:
    assert one("aks", "Database").inputs["accessKeysAuthentication"] == "Disabled"
    assignment = one("aks", "AccessPolicyAssignment").inputs
    assert assignment["accessPolicyName"] == "default"
    assert set(assignment["user"]) == {"objectId"}


def test_azure_managed_redis_has_an_address_of_the_network_only() -> None:
    assert one("aks", "RedisEnterprise").inputs["publicNetworkAccess"] == "Disabled"
    endpoint = one("aks", "PrivateEndpoint").inputs
    assert [connection["groupIds"] for connection in endpoint["privateLinkServiceConnections"]] == [["redisEnterprise"]]
    assert one("aks", "PrivateZone").inputs["privateZoneName"] == "privatelink.redis.azure.net"
    assert one("aks", "VirtualNetworkLink").inputs["registrationEnabled"] is False
    assert one("aks", "PrivateDnsZoneGroup").parent.endswith("::own-cache")


@pytest.mark.parametrize("cloud", ["gke", "aks"])
@pytest.mark.parametrize("by_identity", [True, False])
def test_a_managed_cache_reaches_the_slots_as_a_secret_only(cloud: str, by_identity: bool) -> None:
    secret = next(item for item in planned(cloud, by_identity).resources if item.name == "cache-url")
    assert "stringData" in secret.secrets
    assert secret.inputs["stringData"] == "[secret]"


def test_memorystore_encrypts_and_where_no_identity_is_asked_for_the_network_is_the_key() -> None:
    instance = next(item.inputs for item in planned("gke", False).resources if item.type.endswith(":Instance"))
    assert (instance["transitEncryptionMode"], instance["authorizationMode"]) == ("SERVER_AUTHENTICATION", "AUTH_DISABLED")


@pytest.mark.parametrize(("cloud", "identity"), [("gke", "google"), ("aks", "azure")])
def test_the_runtime_is_told_whose_token_it_signs_in_with(cloud: str, identity: str) -> None:
    maps = [item.inputs["data"] for item in planned(cloud).resources if item.type.endswith(":ConfigMap")]
    (blue, green) = (json.loads(data["runtime.json"])["cache"] for data in maps if "runtime.json" in data)
    assert blue == green
    assert blue["identity"] == identity
    assert blue["url_file"]


def test_the_container_that_is_mounted_is_the_one_that_the_models_name() -> None:
    raw = changed(settings("aks"), {"models~": [{"name": "smollm2-135m-instruct", "source": "abfss://own-weights/smollm2"}]})
    config = {"inferstack:environment": raw, "inferstack:findings": "shown"}
    run = run_function(lambda: deploy(ROOT / "stacks"), project="inferstack", stack="own", config=config, preview=True)
    (container,) = (item.inputs["containerName"] for item in run.resources if item.type.endswith(":BlobContainer"))
    assert container == "own-weights"


def test_application_gateway_for_containers_is_joined_to_a_delegated_subnet() -> None:
    subnets = {item.name: item.inputs for item in planned("aks").resources if item.type.endswith(":Subnet")}
    delegated = subnets["own-gateway-subnet"]
    assert [item["serviceName"] for item in delegated["delegations"]] == ["Microsoft.ServiceNetworking/trafficControllers"]
    network = one("aks", "VirtualNetwork").inputs
    assert delegated["addressPrefix"] in network["addressSpace"]["addressPrefixes"]
    assert one("aks", "AssociationsInterface").inputs["associationType"] == "subnets"
    assert one("aks", "FrontendsInterface").inputs["frontendName"] == "inferstack"
    assert "serviceMeshProfile" not in one("aks", "ManagedCluster").inputs


def test_its_controller_has_a_federated_identity_with_three_roles() -> None:
    federated = [item.inputs for item in planned("aks").resources if item.type.endswith(":FederatedIdentityCredential")]
    assert "system:serviceaccount:azure-alb-system:alb-controller-sa" in {item["subject"] for item in federated}
    roles = {item.name for item in planned("aks").resources if item.type.endswith(":RoleAssignment")}
    assert {"own-gateway-configure", "own-gateway-join", "own-gateway-read-nodes"} <= roles
    release = one("aks", "Release").inputs
    assert release["values"]["albController"]["namespace"] == "azure-alb-system"
    assert release["version"]


def test_the_gateway_names_it_and_neither_cuts_long_answers_nor_probes_the_root() -> None:
    gateway = one("aks", "Gateway").inputs
    assert gateway["spec"]["gatewayClassName"] == "azure-alb-external"
    assert "alb.networking.azure.io/alb-id" in gateway["metadata"]["annotations"]
    assert [address["type"] for address in gateway["spec"]["addresses"]] == ["alb.networking.azure.io/alb-frontend"]
    assert "infrastructure" not in gateway["spec"]
    assert one("aks", "RoutePolicy").inputs["spec"]["default"]["timeouts"] == {"routeTimeout": "900s"}
    probes = [item.inputs["spec"]["default"] for item in planned("aks").resources if item.type.endswith(":HealthCheckPolicy")]
    assert [probe["http"]["path"] for probe in probes] == ["/readyz", "/readyz"]


def test_everything_in_azure_is_of_the_subscription_that_the_environment_names() -> None:
    provider = one("aks", "azure-native")
    assert provider.inputs["subscriptionId"] == SUBSCRIPTION
    native = [item for item in planned("aks").resources if item.type.startswith("azure-native:")]
    assert native
    assert {item.provider.partition("::own")[0].rpartition("::")[2] for item in native} != {""}
    assert all("azure" in item.provider for item in native)


@pytest.mark.parametrize(
    ("cloud", "change", "path"),
    [
        ("gke", {"cache": {"backend": "cluster"}}, "cache.identity"),
        ("gke", {"cache": {"identity": "azure"}}, "cache.identity"),
        ("gke", {"gateway": {"class_name": "azure-alb-external", "internal": False}}, "gateway.class_name"),
        ("aks", {"gateway": {"internal": True}}, "gateway.internal"),
        ("aks", {"gateway": {"port": 8443}}, "gateway.port"),
    ],
)
def test_what_the_services_cannot_do_is_refused(cloud: str, change: dict[str, Any], path: str) -> None:
    assert [finding.path for finding in check(changed(settings(cloud), change)) if finding.severity == "error"] == [path]
