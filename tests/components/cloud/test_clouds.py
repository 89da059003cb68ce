"""GKE and AKS as the engine sees them: known arguments only, protected where it matters, secrets kept, capacity bought as asked."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inferstack.cloud.aks.cluster import AksCluster
from inferstack.cloud.aks.pool import AksGpuPool, pool_name
from inferstack.cloud.gke.cache import address, certificates
from inferstack.cloud.gke.pool import GkeGpuPool
from inferstack.cluster.device_plugin import device_plugin_objects
from inferstack.environment import BASE_KEY, environment_names, load_environment
from inferstack.planning import plan_findings
from inferstack.planning.caches import cache_size
from inferstack.program.monitor import Registration
from inferstack.program.plan import run_environment
from inferstack.program.run import Run, run_function
from inferstack.serving.clouds import aks
from tests.components.cloud.sdk import mistakes
from tests.components.kubernetes import validate

ROOT = Path(__file__).parents[3]
CLOUDS = [name for name in environment_names(ROOT / "stacks") if name.startswith(("dev-", "staging-", "prod-")) and name.count("-") == 1]
_RUNS: dict[tuple[str, bool], list[Run]] = {}


def runs(name: str, preview: bool = True) -> list[Run]:
    """Every stack of an environment, run once per mode."""
    key = (name, preview)
    if key not in _RUNS:
        environment = load_environment(ROOT / "stacks", name)
        _RUNS[key] = [stack.run for stack in run_environment(ROOT, name, environment, preview=preview)]
    return _RUNS[key]


def resources(name: str) -> dict[str, Registration]:
    return {item.name: item for run in runs(name) for item in run.resources if item.custom}


def of_type(name: str, ending: str) -> list[Registration]:
    return [item for item in resources(name).values() if item.type.endswith(ending)]


def test_there_is_a_preset_for_each_stage_and_cloud() -> None:
    assert set(CLOUDS) == {f"{stage}-{cloud}" for stage in ("dev", "staging", "prod") for cloud in ("gke", "aks")}


@pytest.mark.parametrize("name", [*CLOUDS, "kubernetes", "local"])
def test_a_preset_is_short_commented_and_without_an_error(name: str) -> None:
    lines = (ROOT / f"stacks/Pulumi.{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith("# ")
    if BASE_KEY not in "".join(lines):
        assert [str(item) for item in plan_findings(load_environment(ROOT / "stacks", name)) if item.severity == "error"] == []


@pytest.mark.parametrize("name", CLOUDS)
def test_every_argument_of_the_clouds_is_known_to_their_sdk(name: str) -> None:
    checked = 0
    for run in runs(name):
        for item in run.resources:
            if item.type.startswith(("gcp:", "azure-native:")):
                assert mistakes(item.type, item.inputs) == []
                checked += 1
    assert checked >= 15


@pytest.mark.parametrize(
    ("token", "inputs", "expected"),
    [
        ("gcp:container/nodePool:NodePool", {"nodeConfig": {"machineTyp": "x"}}, "NodePool.nodeConfig.machineTyp: no such property"),
        ("gcp:container/nodePool:NodePool", {"nodeConfig": {"spot": "yes"}}, "'yes' is no bool"),
        ("azure-native:containerservice:AgentPool", {"minCount": "1"}, "'1' is no int"),
        ("azure-native:storage:BlobContainer", {"publicAccess": "Nobody"}, "is none of"),
    ],
)
def test_a_typo_in_a_cloud_argument_is_found(token: str, inputs: dict[str, Any], expected: str) -> None:
    assert expected in "".join(mistakes(token, inputs))


@pytest.mark.parametrize("name", CLOUDS)
def test_every_kubernetes_object_of_a_preset_is_admitted_by_the_strict_schema(name: str) -> None:
    for run in runs(name):
        for item in run.resources:
            if item.type.startswith("kubernetes:"):
                validate(item.inputs)


@pytest.mark.parametrize("name", CLOUDS)
def test_what_holds_data_is_protected_in_production_only(name: str) -> None:
    kept = ("container/cluster:Cluster", ":ManagedCluster", ":Bucket", ":Repository", ":StorageAccount", ":Registry", ":ResourceGroup")
    found = {item.type: item.protect for item in resources(name).values() if item.type.endswith(kept)}
    assert len(found) >= 3
    wanted = load_environment(ROOT / "stacks", name).cloud.deletion_protection
    assert set(found.values()) == {wanted}
    assert wanted == (not name.startswith("dev"))


@pytest.mark.parametrize("name", CLOUDS)
def test_the_kubeconfig_is_a_secret_everywhere(name: str) -> None:
    for run in runs(name):
        provider = next(item for item in run.resources if item.type == "pulumi:providers:kubernetes")
        assert "kubeconfig" in provider.secrets
        assert provider.inputs["enableConfigMapMutable"] in (True, "true")
    assert runs(name)[0].outputs["kubeconfig"] == "[secret]"


def test_objects_are_made_after_the_nodes_that_run_them() -> None:
    for name in ("dev-gke", "dev-aks"):
        provider = next(item for item in runs(name)[0].resources if item.type == "pulumi:providers:kubernetes")
        pools = [item.urn for item in of_type(name, ":NodePool") + of_type(name, ":AgentPool")]
        assert set(pools) <= set(provider.dependencies)


def test_gke_is_private_and_reached_by_its_dns_endpoint() -> None:
    cluster = of_type("prod-gke", "container/cluster:Cluster")[0]
    inputs = cluster.inputs
    assert inputs["privateClusterConfig"]["enablePrivateNodes"] is True
    assert inputs["controlPlaneEndpointsConfig"]["dnsEndpointConfig"]["allowExternalTraffic"] is True
    assert inputs["controlPlaneEndpointsConfig"]["ipEndpointsConfig"]["enabled"] is False
    assert inputs["datapathProvider"] == "ADVANCED_DATAPATH"
    assert inputs["workloadIdentityConfig"]["workloadPool"] == "my-project.svc.id.goog"
    assert inputs["gatewayApiConfig"]["channel"] == "CHANNEL_STANDARD"
    assert "DCGM" in inputs["monitoringConfig"]["enableComponents"]
    assert inputs["releaseChannel"]["channel"] == "STABLE"


def test_gke_pools_scale_over_all_zones_and_keep_a_floor_beside_spot() -> None:
    pools = {item.name: item.inputs for item in of_type("staging-gke", ":NodePool")}
    spot, floor = pools["staging-gke-gpu"], pools["staging-gke-gpu-floor"]
    assert spot["nodeConfig"]["spot"] is True
    assert spot["autoscaling"] == {"totalMinNodeCount": 0, "totalMaxNodeCount": 3, "locationPolicy": "ANY"}
    assert "spot" not in floor["nodeConfig"]
    assert floor["autoscaling"]["totalMinNodeCount"] == floor["autoscaling"]["totalMaxNodeCount"] == 1
    assert all("initialNodeCount" not in pool for pool in pools.values())


def test_the_load_balancer_of_gke_does_not_cut_streams() -> None:
    policies = {item.name: item.inputs for item in resources("prod-gke").values() if item.type.endswith(":GCPBackendPolicy")}
    assert set(policies) == {"blue-gcpbackendpolicy", "green-gcpbackendpolicy"}
    for policy in policies.values():
        assert policy["spec"]["default"]["timeoutSec"] == 900
        assert policy["spec"]["default"]["connectionDraining"]["drainingTimeoutSec"] >= 60


def test_aks_has_no_local_accounts_and_its_own_pool_list_is_left_to_it() -> None:
    cluster = of_type("prod-aks", ":ManagedCluster")[0]
    inputs = cluster.inputs
    assert inputs["disableLocalAccounts"] is True
    assert inputs["aadProfile"]["enableAzureRBAC"] is True
    assert inputs["networkProfile"]["networkDataplane"] == "cilium"
    assert inputs["networkProfile"]["networkPluginMode"] == "overlay"
    assert inputs["oidcIssuerProfile"]["enabled"] is True
    assert [pool["name"] for pool in inputs["agentPoolProfiles"]] == ["system"]
    assert cluster.ignore_changes == ("agentPoolProfiles",)


def test_aks_gpu_pools_run_ubuntu_are_tainted_and_get_a_device_plugin() -> None:
    pool = of_type("prod-aks", ":AgentPool")[0].inputs
    assert pool["osSKU"] == "Ubuntu"
    assert pool["nodeTaints"] == ["nvidia.com/gpu=present:NoSchedule"]
    assert pool["availabilityZones"] == ["1", "2", "3"]
    assert pool["nodeLabels"] == {"inferstack.dev/accelerator": "nvidia-a100-80gb"}
    assert pool["vmSize"] == "Standard_NC24ads_A100_v4"
    plugin = resources("prod-aks")["gpu-daemon-set"].inputs["spec"]["template"]["spec"]
    assert "@sha256:" in plugin["containers"][0]["image"]


def test_pods_read_weights_by_their_own_identity_and_no_key() -> None:
    account = resources("prod-gke")["blue-service-account"].inputs
    assert account["metadata"]["annotations"] == {"iam.gke.io/gcp-service-account": "prod-gke-workload@my-project.iam.gserviceaccount.com"}
    assert of_type("prod-aks", ":StorageAccount")[0].inputs["allowSharedKeyAccess"] is False
    subjects = {item.inputs["subject"] for item in of_type("prod-aks", ":FederatedIdentityCredential")}
    assert subjects == {f"system:serviceaccount:inferstack:inferstack-{slot}" for slot in ("blue", "green")}


def test_the_mounts_of_weights_are_told_how_their_storage_works() -> None:
    """Folders of a bucket are parts of names; a storage account with a hierarchy and without keys is opened by the pod's own token."""
    (weights,) = [
        volume
        for volume in resources("prod-gke")["blue-workload"].inputs["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "weights"
    ]
    assert weights["csi"]["volumeAttributes"]["mountOptions"] == "implicit-dirs"
    volume = resources("prod-aks")["weights-volume"].inputs["spec"]
    assert "--use-adls=true" in volume["mountOptions"]
    attributes = volume["csi"]["volumeAttributes"]
    assert attributes["mountWithWorkloadIdentityToken"] == "true"
    assert "clientID" in attributes
    assert "AzureStorageAuthType" not in attributes


def test_a_cluster_may_use_the_reservation_that_its_pool_names() -> None:
    group = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/reserved"
    reservation = f"{group}/providers/Microsoft.Compute/capacityReservationGroups/gpus"
    own = {"resource_group": "g", "subnet": "s", "capacity": "reservation", "reservation": reservation, "control_plane_identity": "me"}
    made = run_function(lambda: AksGpuPool("pool", POOL | own)).resources  # type: ignore[arg-type, return-value]
    (role,) = [item for item in made if item.type.endswith(":RoleAssignment")]
    assert (role.inputs["scope"], role.inputs["principalId"]) == (group, "me")
    (allowed,) = [item.inputs["permissions"][0]["actions"] for item in made if item.type.endswith(":RoleDefinition")]
    assert "Microsoft.Compute/capacityReservationGroups/deploy/action" in allowed
    (pool,) = [item for item in made if item.type.endswith(":AgentPool")]
    assert pool.inputs["capacityReservationGroupID"] == reservation
    assert role.urn in pool.dependencies


def test_the_device_plugin_of_a_partitioned_gpu_sees_its_slices() -> None:
    (whole, sliced) = (
        device_plugin_objects(partitioned)["daemon_set"]["spec"]["template"]["spec"]["containers"][0] for partitioned in (False, True)
    )
    assert "env" not in whole
    assert "add" not in whole["securityContext"]["capabilities"]
    assert sliced["env"] == [{"name": "NVIDIA_MIG_MONITOR_DEVICES", "value": "all"}]
    assert sliced["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert "allowPrivilegeEscalation" not in sliced["securityContext"]


POOL = {
    "project": "p",
    "region": "r",
    "cluster": "c",
    "node_service_account": "a",
    "accelerator": "nvidia-l4",
    "machine_type": "g2-standard-4",
}


def gke_pool(**changes: Any) -> dict[str, Any]:
    run = run_function(lambda: GkeGpuPool("pool", POOL | changes))  # type: ignore[arg-type, return-value]
    return dict(next(item for item in run.resources if item.name == "pool" and item.custom).inputs["nodeConfig"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"capacity": "spot"}, {"spot": True}),
        ({"capacity": "flex_start"}, {"flexStart": True, "maxRunDuration": "604800s"}),
        ({"disk_gb": 300}, {"diskSizeGb": 300}),
        ({"local_ssd": 2}, {"ephemeralStorageLocalSsdConfig": {"localSsdCount": 2}}),
        ({"image_disk": "global/images/d"}, {"secondaryBootDisks": [{"diskImage": "global/images/d", "mode": "CONTAINER_IMAGE_CACHE"}]}),
        ({"huge_pages": 1024}, {"linuxNodeConfig": {"hugepagesConfig": {"hugepageSize2m": 1024}}}),
        (
            {"capacity": "reservation", "reservation": "mine"},
            {
                "reservationAffinity": {
                    "consumeReservationType": "SPECIFIC_RESERVATION",
                    "key": "compute.googleapis.com/reservation-name",
                    "values": ["mine"],
                }
            },
        ),
    ],
)
def test_gpu_nodes_are_bought_as_asked(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected.items() <= gke_pool(**changes).items()


def test_a_gpu_can_be_partitioned_shared_and_driven_as_asked() -> None:
    accelerator = gke_pool(partition="1g.10gb", driver="latest")["guestAccelerators"][0]
    assert accelerator["gpuPartitionSize"] == "1g.10gb"
    assert accelerator["gpuDriverInstallationConfig"]["gpuDriverVersion"] == "LATEST"
    shared = gke_pool(sharing=4)["guestAccelerators"][0]["gpuSharingConfig"]
    assert shared == {"gpuSharingStrategy": "TIME_SHARING", "maxSharedClientsPerGpu": 4}


def test_the_pods_of_a_gke_environment_may_read_the_bucket_that_its_models_come_from() -> None:
    granted = {item.inputs["bucket"] for item in of_type("prod-gke", ":BucketIAMMember")}
    mounted = {model.source.split("/")[2] for model in load_environment(ROOT / "stacks", "prod-gke").models}
    assert mounted <= granted


@pytest.mark.parametrize("component", [GkeGpuPool, AksGpuPool])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": "spott"}, "expected one of"),
        ({"capacity": "reservation"}, "reservation"),
        ({"min_nodes": 3, "max_nodes": 1}, "min_nodes 3 is more than max_nodes 1"),
    ],
)
def test_a_pool_that_cannot_be_is_refused_before_it_is_made(component: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_function(lambda: component("pool", POOL | changes))


@pytest.mark.parametrize("name", ["prod-aks-gpu", "gpu", "a-very-long-environment-name-gpu", "9lives", "prod-aks-gpufloor"])
def test_an_agent_pool_name_is_one_that_aks_takes(name: str) -> None:
    found = pool_name(name)
    assert found.isalnum()
    assert found == found.lower()
    assert found[0].isalpha()
    assert 1 <= len(found) <= 12


def test_the_floor_of_an_aks_pool_has_another_name_than_the_pool() -> None:
    assert pool_name("production-europe-gpu") != pool_name("production-europe-gpufloor")


@pytest.mark.parametrize(
    ("platform", "size", "expected"),
    [
        ("gke", "1Gi", "SHARED_CORE_NANO"),
        ("gke", "8Gi", "HIGHMEM_MEDIUM"),
        ("gke", "32Gi", "HIGHMEM_XLARGE"),
        ("aks", "8Gi", "Balanced_B10"),
        ("aks", "32Gi", "Balanced_B50"),
        ("aks", "128Gi", "Balanced_B150"),
    ],
)
def test_the_smallest_cache_that_holds_the_size_is_taken(platform: str, size: str, expected: str) -> None:
    assert cache_size(platform, size) == expected


def test_a_size_that_no_node_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="holds at most 46Gi"):
        cache_size("gke", "128Gi")


def test_the_groups_of_an_environment_administer_its_cluster() -> None:
    group = "11111111-2222-3333-4444-555555555555"
    environment = load_environment(ROOT / "stacks", "dev-aks")
    cloud = environment.cloud.model_copy(update={"admin_groups": (group,)})
    made = run_function(lambda: aks.create(environment.model_copy(update={"cloud": cloud}), "own"), preview=True)  # type: ignore[arg-type, return-value]
    [cluster] = [item for item in made.resources if item.type.endswith(":ManagedCluster")]
    assert cluster.inputs["aadProfile"]["adminGroupObjectIDs"] == [group]


def test_an_aks_cluster_can_be_used_alone() -> None:
    run = run_function(lambda: AksCluster("mine", {"region": "westeurope", "system_machine_type": "Standard_D4s_v5"}), preview=True)  # type: ignore[arg-type, return-value]
    assert {"AksCluster", "ManagedCluster"} <= {item.type.rpartition(":")[2] for item in run.resources}


def test_memorystore_speaks_tls_and_its_own_authority_comes_with_the_address() -> None:
    def chain(*certificates: str) -> SimpleNamespace:
        return SimpleNamespace(ca_certs=[SimpleNamespace(certificates=list(certificates))])

    connection = SimpleNamespace(psc_auto_connection=SimpleNamespace(ip_address="10.0.0.9", port=6380))
    assert address([SimpleNamespace(connections=[connection])]) == "rediss://10.0.0.9:6380/0"
    assert certificates([chain("one\n", "two")]) == "one\ntwo\n"
    for nothing in (None, [], [chain()]):
        with pytest.raises(ValueError, match="no certificate authority yet"):
            certificates(nothing)
