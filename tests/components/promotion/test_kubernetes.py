"""The cluster's adapter against an API server in this process: promotions, crash points, conflicts, reasons of a slot that never comes."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml

from inferstack.environment import CONFIG_KEY, SLOT_KEY, SlotName, parse_environment, resolve_config
from inferstack.platforms.kube_api import KubeApi
from inferstack.platforms.kube_render import object_path, slot_settings
from inferstack.platforms.kube_scalers import Scalers
from inferstack.platforms.status import platform_status
from inferstack.promotion import commands
from inferstack.promotion.journal import Outcome
from inferstack.promotion.lease import LeaseHeld, LeaseLost
from inferstack.promotion.platform import PlatformError
from inferstack.promotion.spec import SlotSpec, with_settings, with_spec
from inferstack.promotion.transition import NotNow
from inferstack.promotion.weights import Cohort, Weights
from inferstack.serving.manifests.slot import slot_objects
from tests.components.promotion.cluster_world import IMAGE, ClusterWorld, KubeProcess, Object, environment, kube_policy, merged
from tests.components.promotion.world import Killed, turn_back

BLUE, GREEN = SlotName.BLUE, SlotName.GREEN
NEW_IMAGE = "registry.example/runtime@sha256:" + "2" * 64
EVERY_REQUEST = os.environ.get("INFERSTACK_EXHAUSTIVE") == "1"


def newer(spec: SlotSpec) -> SlotSpec:
    return with_settings(spec, {"slot.image": NEW_IMAGE})


def promote(world: ClusterWorld, holder: str = "alice@host:1", **changes: object) -> commands.Ended:
    return commands.promote(KubeProcess(world, holder).session(), newer, kube_policy(world, **changes))


def rollback(world: ClusterWorld, holder: str = "alice@host:1") -> commands.Ended:
    return commands.rollback(KubeProcess(world, holder).session(), kube_policy(world))


def images(world: ClusterWorld, slot: SlotName) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in world.kind("pods") if pod["owner"] == f"inferstack-{slot}"}


def test_a_promotion_moves_the_route_and_keeps_the_old_slot_warm() -> None:
    world = ClusterWorld()
    ended = promote(world, strategy="canary", steps=(25, 100))
    assert ended.outcome is Outcome.COMMITTED, ended.entry
    assert world.weights() == Weights(0, 100)
    assert images(world, GREEN) == {NEW_IMAGE}
    assert images(world, BLUE) == {IMAGE}
    assert world.ready(GREEN) == 2
    assert world.find("horizontalpodautoscalers", "inferstack-blue")["spec"]["minReplicas"] == 2  # type: ignore[index]
    back = rollback(world)
    assert back.outcome is Outcome.COMMITTED
    assert world.weights() == Weights(100, 0)


def test_this_kits_autoscaler_never_takes_back_what_a_promotion_has_brought() -> None:
    """It wants the fewest replicas all the time; the idle slot still has those of the live one before any weight comes to it."""
    world, ready = ClusterWorld(environment(scaling={"renderer": "autoscaler"})), []
    world.on_route = lambda weights: ready.append((weights.of(GREEN), world.ready(GREEN)))
    assert world.ready(GREEN) == 1
    ended = promote(world, strategy="canary", steps=(25, 100))
    assert ended.outcome is Outcome.COMMITTED, ended.entry
    assert [count for weight, count in ready if weight] == [2, 2]
    registration = world.find("configmaps", "inferstack-blue-scaling")
    assert registration is not None
    assert registration["data"]["min_instances"] == "2"
    back = rollback(world)
    assert back.outcome is Outcome.COMMITTED
    assert world.weights() == Weights(100, 0)


def test_the_floor_of_every_kind_of_scaler_is_read_and_written_where_it_keeps_it() -> None:
    for renderer, least, most in (("hpa", 3, 7), ("keda", 3, 7), ("autoscaler", 3, 7)):
        settings = environment(scaling={"renderer": renderer}, slots={"replicas": {"min": least, "max": most}})
        scaler = slot_objects(settings, BLUE, name="test")[0].scaler
        assert scaler is not None
        kept = Scalers(renderer, "ns")
        assert kept.path(BLUE, "") == object_path(scaler)
        assert kept.floor(scaler) == least
        for floor in (1, 5, 9):
            changed = merged(scaler, kept.with_floor(scaler, floor))
            assert kept.floor(changed) == floor
            assert max(most, floor) in [int(value) for value in (changed.get("spec") or changed["data"]).values() if str(value).isdigit()]
    assert Scalers("none", "ns").path(BLUE, "") is None


def test_a_scaler_whose_floor_is_no_number_is_named() -> None:
    registration = {"kind": "ConfigMap", "metadata": {"name": "inferstack-blue-scaling"}, "data": {"min_instances": "two"}}
    with pytest.raises(PlatformError, match="ConfigMap inferstack-blue-scaling: min_instances is 'two': expected a number"):
        Scalers("autoscaler", "ns").floor(registration)


def test_a_canary_by_header_is_a_rule_of_the_route_until_all_traffic_has_moved() -> None:
    world, seen = ClusterWorld(), []
    world.on_route = lambda weights: seen.append(weights)
    ended = promote(world, strategy="canary", steps=(25, 100), header=("x-cohort", "beta"))
    assert ended.outcome is Outcome.COMMITTED, ended.entry
    cohort = Cohort("x-cohort", "beta", GREEN)
    assert seen == [Weights(100, 0, cohort), Weights(75, 25, cohort), Weights(0, 100)]


def test_rolling_and_two_tiers_work_too() -> None:
    world = ClusterWorld()
    assert promote(world, strategy="rolling").outcome is Outcome.COMMITTED
    models = [
        {"name": "small", "source": "hf://o/s", "quantization": "int8", "tier": "fast", "weight": 80},
        {"name": "large", "source": "hf://o/l", "quantization": "int8", "tier": "quality", "weight": 20},
    ]
    both = ClusterWorld(environment(models=models))
    assert promote(both).outcome is Outcome.COMMITTED
    assert both.weights() == Weights(0, 100)


def test_a_replica_that_a_scaler_has_just_added_is_asked_nothing_until_it_is_ready() -> None:
    world = ClusterWorld()
    world.reconcile()
    process, asked = KubeProcess(world), []
    reach = process._reach.client
    process._reach.client = lambda pod, port: asked.append(pod["metadata"]["name"]) or reach(pod, port)  # type: ignore[method-assign]
    ready = {pod["metadata"]["name"] for pod in world.kind("pods") if pod["owner"] == "inferstack-blue"}
    world.find("deployments", "inferstack-blue")["spec"]["replicas"] += 1
    world.reconcile()
    assert len([pod for pod in world.kind("pods") if pod["owner"] == "inferstack-blue"]) == len(ready) + 1
    assert process.exercise(BLUE, 6).failures == 0
    assert set(asked) == ready


def prepared(command: Callable[..., commands.Ended], bad: bool) -> ClusterWorld:
    """Where `command` begins; `bad`: the new version fails."""
    world = ClusterWorld()
    if command is rollback:
        assert promote(world).outcome is Outcome.COMMITTED
        world.requests.clear()
    if bad:
        world.errors_of["2"] = 0.5
    return world


def killed(world: ClusterWorld, command: Callable[..., commands.Ended], at: int, when: str) -> None:
    world.kill_at = (at, when)
    with pytest.raises(Killed):
        command(world)
    world.kill_at = None
    world.time += 40  # the lease of a promoter that died elsewhere ends
    world.reconcile()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "bad"), [(promote, False), (promote, True), (rollback, False)], ids=["promote", "reverted", "rollback"]
)
def test_killed_at_any_write_to_the_cluster_one_rerun_converges(command: Callable[..., commands.Ended], bad: bool) -> None:
    clean = prepared(command, bad)
    assert command(clean).outcome is (Outcome.REVERTED if bad else Outcome.COMMITTED)
    found = [index for index, request in enumerate(clean.requests) if EVERY_REQUEST or not request.startswith("GET")]
    survived = 0
    for index in found:
        for when in ("before", "after"):
            world = prepared(command, bad)
            killed(world, command, index, when)
            journal = world.stored()
            last = "rollback" if command is rollback else "promote"
            if journal is not None and journal.operation is None and journal.history and journal.history[-1].kind == last:
                commands.recover(KubeProcess(world, "bob@host:2").session())
            else:
                command(world, "bob@host:2")
            journal = world.stored()
            assert journal is not None
            assert journal.operation is None, f"killed {when} {clean.requests[index]}"
            assert world.weights().sole is journal.active
            assert journal.weights == world.weights()
            assert world.ready(journal.active) >= 2
            assert images(world, journal.active) == {IMAGE if bad or command is rollback else NEW_IMAGE}, (
                f"killed {when} {clean.requests[index]}"
            )
            survived += 1
    name = f"{command.__name__}{' reverted' if bad else ''} on the cluster's adapter"
    kinds = "requests" if EVERY_REQUEST else "writes"
    print(f"{name}: {survived} of {2 * len(found)} crash points survived ({kinds}, of {len(clean.requests)} requests)")


def written(world: ClusterWorld) -> dict[str, str]:
    """Versions of everything that somebody wrote; pods and endpoints are the controllers'."""
    return {
        path: item["metadata"]["resourceVersion"]
        for path, item in world.objects.items()
        if path.split("/")[-2] not in ("pods", "endpointslices")
    }


def paused(world: ClusterWorld, command: Callable[..., commands.Ended], at: int, other: Callable[..., commands.Ended]) -> None:
    """Whoever runs `command` stops before its request `at`, `other` takes over when the lease has ended, then the first goes on: it
    changes nothing."""
    left: list[dict[str, str]] = []

    def pause(index: int, process: KubeProcess) -> None:
        if process.holder != "alice@host:1" or index != at:
            return
        world.advance(40)
        ended = other(KubeProcess(world, "bob@other:2").session())
        assert ended.journal.operation is None
        left.append(written(world))

    world.before_request = pause
    with pytest.raises((LeaseLost, PlatformError)):
        command(world)
    request = world.requests[at]
    assert left == [written(world)], f"paused before {request}: it wrote {set(written(world).items()) ^ set(left[0].items())}"
    journal = world.stored()
    assert journal is not None
    assert world.weights() == Weights.share(journal.active, 100) == journal.weights, f"paused before {request}"
    assert world.ready(journal.active) >= 2


def unmade() -> ClusterWorld:
    """Nobody has made anything of the idle slot yet."""
    world = ClusterWorld()
    for path in [path for path in written(world) if path.split("/")[-1].startswith("inferstack-green")]:
        world.delete(path)
    return world


@pytest.mark.parametrize(
    ("other", "kinds"),
    [
        (turn_back, "deployments"),
        pytest.param(turn_back, "", marks=pytest.mark.slow),
        pytest.param(commands.recover, "", marks=pytest.mark.slow),
    ],
)
def test_what_a_promoter_that_slept_creates_is_the_next_ones_or_nobodys(other: Callable[..., commands.Ended], kinds: str) -> None:
    clean = unmade()
    assert promote(clean).outcome is Outcome.COMMITTED
    creates = [index for index in points(clean, every=False) if clean.requests[index].startswith("POST")]
    made = {path: item for path, item in clean.objects.items() if path.split("/")[-1] == "inferstack-green"}
    assert len(creates) == len(made) + 1, "the journal, and every object of the slot"
    assert {item["metadata"]["annotations"]["inferstack.dev/promoter"] for item in made.values()} == {"1 alice@host:1"}
    for index in (index for index in creates if clean.requests[index].endswith(kinds)):
        world = unmade()
        paused(world, promote, index, other)
        names = {item["metadata"].get("annotations", {}).get("inferstack.dev/promoter") for item in world.objects.values()}
        assert "1 alice@host:1" not in names or other is turn_back


def test_a_first_journal_that_a_promoter_wrote_too_late_is_nobodys() -> None:
    clean = ClusterWorld()
    promote(clean)
    first = clean.requests.index("POST /api/v1/namespaces/ns/configmaps")
    world = ClusterWorld()

    def pause(index: int, process: KubeProcess) -> None:
        if index == first:
            world.advance(40)
            with pytest.raises(NotNow, match="no promotion is unfinished"):
                commands.abort(KubeProcess(world, "bob@other:2").session())

    world.before_request = pause
    with pytest.raises(LeaseLost):
        promote(world)
    assert world.stored() is None


def points(world: ClusterWorld, *, every: bool) -> list[int]:
    """Requests of a clean run at which a promoter that holds the lease can be stopped: its writes, or all."""
    own = [index for index, request in enumerate(world.requests) if "/leases" in request]
    first = next(index for index in own if not world.requests[index].startswith("GET"))
    last = max(own)
    return [index for index in range(first + 1, last - 1) if every or not world.requests[index].startswith("GET")]


def test_a_promoter_that_slept_before_it_moved_the_weights_moves_nothing_once_another_has_turned_back() -> None:
    clean = ClusterWorld()
    assert promote(clean).outcome is Outcome.COMMITTED
    moves = [index for index in points(clean, every=False) if clean.requests[index].endswith("httproutes/inferstack")]
    assert len(moves) == 1
    paused(ClusterWorld(), promote, moves[0], commands.abort)


@pytest.mark.slow
@pytest.mark.parametrize("other", [commands.recover, turn_back], ids=["recover", "abort"])
@pytest.mark.parametrize(
    ("command", "bad"), [(promote, False), (promote, True), (rollback, False)], ids=["promote", "reverted", "rollback"]
)
def test_paused_before_any_write_to_the_cluster_and_overtaken_it_changes_nothing(
    command: Callable[..., commands.Ended], bad: bool, other: Callable[..., commands.Ended]
) -> None:
    clean = prepared(command, bad)
    command(clean)
    found = points(clean, every=EVERY_REQUEST)
    for index in found:
        paused(prepared(command, bad), command, index, other)
    name = f"{command.__name__}{' reverted' if bad else ''} overtaken by {other.__name__} on the cluster's adapter"
    kinds = "requests" if EVERY_REQUEST else "writes"
    print(f"{name}: {len(found)} of {len(found)} pauses changed nothing ({kinds}, of {len(clean.requests)} requests)")


def test_the_second_promoter_touches_nothing() -> None:
    world = ClusterWorld()
    first = KubeProcess(world, "alice@host:1")
    first.acquire_lease("alice@host:1")
    before = {path: value["metadata"].get("resourceVersion") for path, value in world.objects.items()}
    with pytest.raises(LeaseHeld, match="alice@host:1"):
        promote(world, "bob@host:2")
    assert before == {path: value["metadata"].get("resourceVersion") for path, value in world.objects.items()}


def test_flakes_throttling_and_conflicts_are_lived_through() -> None:
    world = ClusterWorld()
    count = {"n": 0}

    def flaky(method: str, path: str) -> httpx.Response | None:
        count["n"] += 1
        if count["n"] % 11 == 0:
            return httpx.Response(503, json={"message": "etcd leader changed"})
        if count["n"] % 37 == 0:
            return httpx.Response(429, json={"message": "too many requests"})
        if count["n"] % 53 == 0 and method == "PATCH":
            return httpx.Response(409, json={"message": "the object has been modified"})
        return None

    world.fail = flaky
    assert promote(world).outcome is Outcome.COMMITTED


def test_an_error_is_never_taken_for_absence() -> None:
    world = ClusterWorld()
    world.fail = lambda method, path: httpx.Response(500, json={"message": "down"}) if "/deployments/" in path else None
    with pytest.raises(PlatformError, match="down"):
        promote(world)
    assert world.weights() == Weights(100, 0)


def waiting(reason: str, message: str = "", restarts: int = 0) -> Object:
    last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    container = {"restartCount": restarts, "state": {"waiting": {"reason": reason, "message": message}}, "lastState": last}
    return {"phase": "Pending", "containerStatuses": [container]}


REASONS = {
    "image": (waiting("ImagePullBackOff", "manifest unknown: not found"), "manifest unknown"),
    "crash loop": (waiting("CrashLoopBackOff", restarts=3), "cannot open model"),
    "unschedulable": (
        {
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}
            ],
        },
        "Insufficient nvidia.com/gpu",
    ),
    "secret": (waiting("CreateContainerConfigError", 'secret "inferstack-keys" not found'), "inferstack-keys"),
}


@pytest.mark.parametrize("kind", list(REASONS))
def test_a_slot_that_never_becomes_ready_says_why(kind: str) -> None:
    status, words = REASONS[kind]
    world = ClusterWorld()
    world.trouble = lambda pod: status if pod["metadata"]["annotations"]["inferstack.dev/generation"] == "2" else None
    ended = promote(world)
    assert ended.outcome is Outcome.REVERTED
    assert words in ended.entry.reason  # type: ignore[union-attr]
    assert world.weights() == Weights(100, 0)
    assert not [request for request in world.requests if "PATCH" in request and "httproutes" in request]


def test_a_refused_quota_is_the_reason_at_once() -> None:
    world = ClusterWorld()
    deploy = world._deployment

    def refuse(deployment: Object) -> None:
        deploy(deployment)
        if deployment["spec"]["template"]["metadata"]["annotations"]["inferstack.dev/generation"] == "2":
            message = 'pods "x" is forbidden: exceeded quota: gpus, requested: 1, used: 2, limited: 2'
            deployment["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "message": message}]
            for pod in [pod for pod in world.kind("pods") if pod["owner"] == deployment["metadata"]["name"]]:
                del world.objects[world._pod_path(pod)]

    world._deployment = refuse  # type: ignore[method-assign]
    ended = promote(world)
    assert ended.outcome is Outcome.REVERTED
    assert "exceeded quota" in ended.entry.reason  # type: ignore[union-attr]


def test_an_edit_of_the_live_image_is_drift_and_blocks() -> None:
    world = ClusterWorld()
    deployment = world.find("deployments", "inferstack-blue")
    assert deployment is not None
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/other@sha256:" + "3" * 64
    ended = promote(world)
    assert ended.outcome is Outcome.REFUSED
    assert "blue" in ended.entry.reason  # type: ignore[union-attr]


def test_a_changed_route_template_is_seen_as_drift_and_applied_by_the_next_change_of_weights() -> None:
    world = ClusterWorld()
    template = world.find("configmaps", "inferstack-route")
    assert template is not None
    template["data"]["rules.json"] = template["data"]["rules.json"].replace("600s", "900s")
    assert promote(world).outcome is Outcome.REFUSED
    assert promote(world, allow_drift=True).outcome is Outcome.COMMITTED
    assert "900s" in str(world.find("httproutes", "inferstack")["spec"]["rules"])  # type: ignore[index]


def test_an_old_pod_that_still_serves_is_no_ready_replica_of_the_new_spec() -> None:
    world = ClusterWorld()
    process = KubeProcess(world)
    assert process.observe().slots[GREEN].ready == 1
    for pod in world.kind("pods"):
        pod["metadata"]["annotations"]["inferstack.dev/generation"] = "0"
    assert process.observe().slots[GREEN].ready == 0


def test_a_spec_survives_the_way_over_the_cluster() -> None:
    world = ClusterWorld()
    process = KubeProcess(world)
    process.acquire_lease("alice@host:1")
    spec = replace(newer(SlotSpec.from_environment(world.environment)), generation=7)
    process.render(GREEN, spec)
    assert process.observe().slots[GREEN].spec == spec


def test_status_has_the_keys_that_other_tools_read() -> None:
    world = ClusterWorld()
    assert promote(world).outcome is Outcome.COMMITTED
    process = KubeProcess(world)
    data = platform_status("staging", world.environment, process)
    assert (data["active_slot"], data["previous_slot"], data["phase"], data["generation"]) == ("green", "blue", "idle", 2)
    assert data["weights"] == {"blue": 0, "green": 100}
    assert set(data["slots"]["blue"]) >= {"ready", "replicas", "model", "quantization", "model_digest", "url", "healthy"}
    assert data["slots"]["green"]["healthy"]
    assert data["drift"] == []


def test_a_slots_own_stack_is_told_the_same_that_is_applied(tmp_path: Path) -> None:
    """What `pulumi up` of the slot's stack reads is the environment that apply would render."""
    (tmp_path / "Pulumi.staging.yaml").write_text(yaml.safe_dump({"config": {CONFIG_KEY: environment().model_dump(mode="json")}}))
    spec = replace(newer(SlotSpec.from_environment(environment())), generation=7)
    settings = slot_settings("staging", GREEN, spec)
    assert settings[SLOT_KEY].pop("generation") == 7
    told = parse_environment(resolve_config(tmp_path, settings))
    assert told.slot is GREEN
    assert told.model_copy(update={"layer": environment().layer, "slot": None}) == with_spec(environment(), spec)


def test_the_kubeconfig_is_the_one_that_is_named_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kubernetes.config  # noqa: F401 - it notes KUBECONFIG when it is imported

    file = tmp_path / "config"
    file.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "contexts": [{"name": "mine", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert KubeApi.from_kubeconfig("mine").server == "http://127.0.0.1:1"
