"""Every preset through the real engine: up, no change, a change, drift, a failed update retried, and down in order."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from inferstack.environment import Environment, Layer, Platform, environment_names, load_environment
from inferstack.program.plan import plan_environment
from tests.engine.conftest import ROOT, Engine, project
from tests.engine.objects import key, rendered, without_annotations_of_the_engine

PRESETS = [
    name
    for name in environment_names(ROOT / "stacks")
    if (found := load_environment(ROOT / "stacks", name)).platform is not Platform.LOCAL and found.layer is not Layer.SLOT
]


MORE = ["services-gke", "services-aks"]
"""Environments of tests/engine/stacks that use what no preset does."""


def stacks(engine: Engine, name: str) -> list[str]:
    """The stacks of an environment, the platform's first."""
    environment = load_environment(engine.folder / "stacks", name)
    return [name] if environment.layer is Layer.ALL else [name, f"{name}-blue", f"{name}-green"]


def unprotect(engine: Engine, name: str) -> None:
    """What an operator does before a teardown: allow it in the file, and bring that into the state."""
    file = engine.folder / f"stacks/Pulumi.{name}.yaml"
    document = yaml.safe_load(file.read_text())
    environment = document["config"]["inferstack:environment"]
    environment["production"] = False  # the planning keeps production protected
    environment.setdefault("cloud", {})["deletion_protection"] = False
    file.write_text(yaml.safe_dump(document))
    engine.up(name)


@dataclass(frozen=True)
class Standing:
    """An environment whose stacks are up."""

    engine: Engine
    name: str

    @property
    def stacks(self) -> list[str]:
        return stacks(self.engine, self.name)

    @property
    def environment(self) -> Environment:
        return load_environment(self.engine.folder / "stacks", self.name)


@pytest.fixture(scope="module", params=[*PRESETS, *MORE])
def standing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Each environment, brought up once for the tests that ask it something; the last of them takes it down."""
    with project(tmp_path_factory.mktemp("engine")) as engine:
        up = Standing(engine, request.param)
        for stack in up.stacks:
            engine.pulumi("stack", "init", stack)
            engine.up(stack)
        yield up


def test_a_preset_settles_with_everything_that_was_planned(standing: Standing) -> None:
    engine, name = standing.engine, standing.name
    for stack in standing.stacks:
        engine.preview(stack, "--expect-no-changes")
    planned = {(item.type, item.name) for item in plan_environment(engine.folder, name).resources if ":providers:" not in item.type}
    states = [engine.state(stack)["deployment"]["resources"] for stack in standing.stacks]
    made = {(item["type"], item["urn"].rpartition("::")[2]) for state in states for item in state}
    assert planned <= made
    assert {kind for kind, _ in made - planned} <= {"pulumi:pulumi:Stack", "pulumi:pulumi:StackReference"} | {
        f"pulumi:providers:{package}" for package in ("gcp", "azure-native", "kubernetes", "pulumi")
    }


def test_a_rendering_is_what_the_update_created(standing: Standing) -> None:
    engine, name = standing.engine, standing.name
    cloud = [item for item in engine.cloud()["resources"].values() if item["type"].startswith("kubernetes:")]
    objects = [item["inputs"] for item in cloud if not item["type"].startswith("kubernetes:helm.sh/")]  # a chart is no object
    made = {key(item): without_annotations_of_the_engine(item) for item in objects}
    outputs = json.loads(engine.pulumi("stack", "output", "--stack", name, "--json").stdout)
    wanted = rendered(engine.folder, name, outputs if standing.environment.platform is Platform.AKS else None)
    assert wanted == {one: item for one, item in made.items() if one[0] != "Secret"}


def test_what_is_protected_stops_a_teardown_and_without_protection_all_goes(standing: Standing) -> None:
    engine = standing.engine
    if standing.environment.platform is not Platform.KUBERNETES and standing.environment.cloud.deletion_protection:
        refused = engine.destroy(standing.name, check=False)
        assert refused.returncode != 0
        assert "protect" in refused.stdout + refused.stderr
        assert f"{standing.name}-weights" in refused.stdout + refused.stderr
        unprotect(engine, standing.name)
    for stack in reversed(standing.stacks):
        engine.destroy(stack)
    assert engine.cloud()["resources"] == {}


def test_a_change_of_an_engine_setting_touches_the_slots_and_nothing_else(engine: Engine) -> None:
    engine.pulumi("stack", "init", "kubernetes")
    engine.up("kubernetes")
    before = engine.cloud()["resources"]
    file = engine.folder / "stacks/Pulumi.kubernetes.yaml"
    file.write_text(file.read_text().replace("    engine:\n", "    engine:\n      max_sequences: 8\n", 1))
    engine.up("kubernetes")
    engine.preview("kubernetes", "--expect-no-changes")
    after = engine.cloud()["resources"]
    changed = {urn.rpartition("::")[2] for urn in after if after[urn]["inputs"] != before[urn]["inputs"]}
    assert changed == {f"{slot}-{part}" for slot in ("blue", "green") for part in ("config-map", "workload")}


def test_what_a_promotion_wrote_survives_an_update_and_drift_is_seen(engine: Engine) -> None:
    engine.pulumi("stack", "init", "kubernetes")
    engine.up("kubernetes")
    cloud = engine.cloud()
    route = next(item for item in cloud["resources"].values() if item["type"].endswith(":HTTPRoute"))
    route["inputs"]["spec"]["rules"][0]["backendRefs"][0]["weight"] = 0
    engine.change_cloud(cloud)
    assert engine.preview("kubernetes", "--expect-no-changes").returncode == 0
    account = next(item for item in cloud["resources"].values() if item["type"].endswith(":Service"))
    account["inputs"]["spec"]["type"] = "LoadBalancer"
    engine.change_cloud(cloud)
    assert engine.preview("kubernetes", "--refresh", "--expect-no-changes", check=False).returncode != 0


def test_no_secret_stands_in_the_state(engine: Engine) -> None:
    file = engine.folder / "stacks/Pulumi.services-aks.yaml"
    file.write_text(file.read_text().replace(", identity: azure", ""))
    engine.pulumi("stack", "init", "services-aks")
    engine.up("services-aks")
    assert any("the-primary-key" in str(item["inputs"]) for item in engine.cloud()["resources"].values())
    text = str(engine.state("services-aks"))
    assert "the-primary-key" not in text
    backend = "".join(file.read_text() for file in (Path(engine.environment["PULUMI_BACKEND_URL"].removeprefix("file://"))).rglob("*.json"))
    assert "the-primary-key" not in backend
    assert engine.pulumi("stack", "output", "--stack", "services-aks").stdout.count("[secret]") == 1


def test_a_slot_stack_reads_its_cluster_from_the_platform_stack(engine: Engine) -> None:
    engine.pulumi("stack", "init", "prod-gke-blue")
    failed = engine.up("prod-gke-blue", check=False)
    assert failed.returncode != 0
    engine.pulumi("stack", "init", "prod-gke")
    engine.up("prod-gke")
    engine.up("prod-gke-blue")
    deployments = [item for item in engine.cloud()["resources"].values() if item["type"] == "kubernetes:apps/v1:Deployment"]
    assert [item["inputs"]["metadata"]["name"] for item in deployments] == ["inferstack-blue"]


def test_a_retry_after_a_half_failed_update_converges(engine: Engine) -> None:
    engine.pulumi("stack", "init", "dev-gke")
    engine.pulumi("preview", "--stack", "dev-gke", "--suppress-progress")
    cloud = engine.cloud()
    cloud["fail_at"] = ["gcp:container/nodePool:NodePool"]
    engine.change_cloud(cloud)
    assert engine.up("dev-gke", check=False).returncode != 0
    engine.up("dev-gke")
    engine.preview("dev-gke", "--expect-no-changes")
    names = list(engine.cloud()["resources"])
    assert len(names) == len(set(names))


def test_an_environment_that_the_planning_refuses_makes_nothing(engine: Engine) -> None:
    file = engine.folder / "stacks/Pulumi.dev-gke.yaml"
    file.write_text(file.read_text().replace("budget: {hourly_usd: 3}", "budget: {hourly_usd: 0.01}"))
    engine.pulumi("stack", "init", "dev-gke")
    refused = engine.up("dev-gke", check=False)
    assert refused.returncode != 0
    assert "budget" in refused.stdout + refused.stderr
    assert engine.cloud()["resources"] == {}
