"""The pack as the engine talks to it: `python -m pulumi.policy`, gRPC, no `pulumi` binary."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

from inferstack.cluster.images import reference
from inferstack_policies import RULES

from .fixtures import bad, stack

ROOT = Path(__file__).parents[2]
MANDATORY = analyzer_pb2.MANDATORY
pytestmark = pytest.mark.parts
ENVIRONMENT = {
    "platform": "gke",
    "production": True,
    "region": "us-central1",
    "cloud": {"project": "example"},
    "models": [{"name": "m", "source": "gs://w/m"}],
    "engine": {"image": "ghcr.io/inferstack/runtime@sha256:" + "1" * 64},
    "budget": {"hourly_usd": 20},
}


@contextmanager
def pack(environment: dict[str, Any] | None = None, **more: str) -> Iterator[analyzer_pb2_grpc.AnalyzerStub]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PULUMI_")} | more
    if environment is not None:
        variables["PULUMI_CONFIG"] = json.dumps({"inferstack:environment": json.dumps(environment)})
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "pulumi.policy", "127.0.0.1:1", "policies"],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port.isdigit(), process.communicate()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield analyzer_pb2_grpc.AnalyzerStub(channel)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def struct(props: dict[str, Any]) -> Struct:
    found = Struct()
    found.update(props)
    return found


def analyze(analyzer: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Diagnostics by policy: each resource of a fixture's stack, then all of them together."""
    resources, _ = stack({**case, "drop": [*case.get("drop", ()), "aks-pool"]})  # the price table is that of GKE here
    answers = []
    for r in resources:
        urn = f"urn:pulumi:s::p::{r.type}::{r.name}"
        answers.append(analyzer.Analyze(analyzer_pb2.AnalyzeRequest(type=r.type, urn=urn, name=r.name, properties=struct(dict(r.props)))))
    rows = [
        analyzer_pb2.AnalyzerResource(
            type=r.type, urn=f"urn:pulumi:s::p::{r.type}::{r.name}", name=r.name, properties=struct(dict(r.props))
        )
        for r in resources
    ]
    answers.append(analyzer.AnalyzeStack(analyzer_pb2.AnalyzeStackRequest(resources=rows)))
    return {d.policyName: d for answer in answers for d in answer.diagnostics}


def case_of(rule: str) -> dict[str, Any]:
    return next(case for case in bad() if case["rule"] == rule)


def test_every_rule_is_a_policy_of_the_pack() -> None:
    with pack() as analyzer:
        info = analyzer.GetAnalyzerInfo(Empty())
    assert {policy.name for policy in info.policies} == {rule.id for rule in RULES} | {"waiver-expired"}


def test_the_engine_hears_what_the_rules_say_and_nothing_of_a_good_stack() -> None:
    with pack(ENVIRONMENT) as analyzer:
        assert analyze(analyzer, {}) == {}
        for rule in ("pod-host-namespaces", "disruption-budget", "gpu-pool-tainted", "slots-both-named", "cluster-protected"):
            found = analyze(analyzer, case_of(rule))
            assert set(found) == {rule}
            assert found[rule].enforcementLevel == MANDATORY
            assert "Fix: " in found[rule].message


def test_a_waiver_of_the_environment_holds_and_an_expired_one_stops_the_deploy() -> None:
    waiver = {"rule": "pod-host-namespaces", "path": "Deployment/*", "reason": "measured by hand", "owner": "ops", "expires": "2999-12-31"}
    with pack({**ENVIRONMENT, "waivers": [waiver]}) as analyzer:
        assert analyze(analyzer, case_of("pod-host-namespaces")) == {}
    with pack({**ENVIRONMENT, "waivers": [{**waiver, "expires": "2020-01-01"}]}) as analyzer:
        found = analyze(analyzer, case_of("pod-host-namespaces"))
    assert set(found) == {"pod-host-namespaces", "waiver-expired"}


def test_a_value_that_is_not_known_yet_is_said_to_be_so_and_blocks_nothing_in_preview() -> None:
    unknown = {"at": "blue", "set": {"spec.template.spec.containers[0].image": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}}
    with pack(ENVIRONMENT) as analyzer:
        found = analyze(analyzer, unknown)
    assert "can't run policy" in found["image-digest"].message
    assert found["image-digest"].enforcementLevel != MANDATORY


def test_a_deploy_lets_only_the_verified_image_and_the_pinned_ones_run() -> None:
    verified = ENVIRONMENT["engine"]["image"]
    pinned = {"at": "blue", "set": {"spec.template.spec.containers[0].image": reference("prometheus")}}
    other = {"at": "blue", "set": {"spec.template.spec.containers[0].image": "ghcr.io/else/runtime@sha256:" + "1" * 64}}
    older = {"at": "blue", "set": {"spec.template.spec.containers[0].image": "ghcr.io/inferstack/runtime@sha256:" + "2" * 64}}
    images = {"image-registry", "image-verified"}
    with pack(ENVIRONMENT, INFERSTACK_VERIFIED_IMAGES=verified) as analyzer:
        assert not images & set(analyze(analyzer, {}))
        assert not images & set(analyze(analyzer, pinned))
        assert set(analyze(analyzer, other)) == images
        assert set(analyze(analyzer, older)) == {"image-verified"}
