"""The route: both slots always named, weights the only thing that moves, tiers by header or by share."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferstack.environment import SlotName, parse_environment
from inferstack.platforms.kube_route import read_weights
from inferstack.promotion.weights import Weights
from inferstack.serving.manifests.route import gateway, route, route_rules, route_template, template_map
from tests.components.kubernetes import SMALL, environment
from tests.components.serving.test_manifests import VARIANTS


def backends(rule: dict[str, Any]) -> dict[str, int]:
    return {item["name"]: item["weight"] for item in rule["backendRefs"]}


def test_all_weight_starts_on_the_initial_slot() -> None:
    assert backends(route(environment())["spec"]["rules"][0]) == {"inferstack-blue": 100, "inferstack-green": 0}
    assert backends(route(environment({"slots": {"initial": "green"}}))["spec"]["rules"][0])["inferstack-green"] == 100


@given(blue=st.integers(0, 100), fast=st.integers(0, 100), variant=st.sampled_from(sorted(VARIANTS)))
def test_both_slots_are_named_at_every_weight_and_share_it(blue: int, fast: int, variant: str) -> None:
    template = route_template(environment(VARIANTS[variant]))
    if len(template) > 1:
        for backend, share in zip(template[-1]["backendRefs"], (fast, 100 - fast) * 2, strict=True):
            backend["share"] = share
    rules = route_rules(template, {"blue": blue, "green": 100 - blue})
    weights, named = read_weights(rules)
    assert weights == Weights(blue, 100 - blue)
    assert named == frozenset(SlotName)
    for rule in rules:
        found = backends(rule)
        assert max(found.values()) <= 1000  # the most that a URL map of Google's load balancers takes
        if len(found) == 2:
            assert sorted(found.values()) == sorted((blue, 100 - blue))
        assert all(set(item) <= {"group", "kind", "name", "port", "weight", "filters"} for item in rule["backendRefs"])


@pytest.mark.parametrize(
    ("fast", "expected"), [(80, (360, 90, 40, 10)), (85, (765, 135, 85, 15)), (100, (90, 0, 10, 0)), (99, (891, 9, 99, 1))]
)
def test_tiers_share_the_weight_of_their_slot(fast: int, expected: tuple[int, ...]) -> None:
    template = route_template(environment(VARIANTS["tiers"]))
    for backend, share in zip(template[-1]["backendRefs"], (fast, 100 - fast) * 2, strict=True):
        backend["share"] = share
    assert tuple(backends(route_rules(template, {"blue": 90, "green": 10})[-1]).values()) == expected


def test_the_template_says_all_but_the_weights() -> None:
    found = environment(VARIANTS["tiers"])
    template = json.loads(template_map(found)["data"]["rules.json"])
    assert template == route_template(found)
    assert "weight" not in json.dumps(template)
    assert route_rules(template, {"blue": 100, "green": 0}) == route(found)["spec"]["rules"]


def test_tiers_are_chosen_by_header_and_split_by_share_otherwise() -> None:
    fast, quality, rest = route_rules(route_template(environment(VARIANTS["tiers"])), {"blue": 100, "green": 0})
    assert fast["matches"][0]["headers"] == [{"type": "Exact", "name": "X-Tier", "value": "fast"}]
    assert set(backends(fast)) == {"inferstack-blue", "inferstack-green"}
    assert quality["matches"][0]["headers"][0]["value"] == "quality"
    assert set(backends(quality)) == {"inferstack-blue-quality", "inferstack-green-quality"}
    assert backends(rest)["inferstack-blue"] == 400
    assert backends(rest)["inferstack-blue-quality"] == 100


def test_the_timeout_covers_the_longest_request() -> None:
    for rule in route_template(environment({"gateway": {"timeout_seconds": 900}})):
        assert rule["timeouts"] == {"request": "900s", "backendRequest": "900s"}


@pytest.mark.parametrize(("seconds", "shown"), [(600.5, "601s"), (0.5, "1s"), (86_400, "86400s")])
def test_a_timeout_is_a_duration_of_the_gateway_api(seconds: float, shown: str) -> None:
    (rule,) = route_template(environment({"gateway": {"timeout_seconds": seconds}}))
    assert rule["timeouts"]["request"] == shown
    assert re.fullmatch(r"([0-9]{1,5}(h|m|s|ms)){1,4}", shown)  # GEP-2257, the pattern of the custom resource


def test_an_engine_without_the_identity_header_gets_it_from_the_route() -> None:
    kit, other = (route_template(environment(VARIANTS[name]))[0]["backendRefs"][1] for name in ("small", "llamacpp"))
    assert "filters" not in kit
    assert other["filters"][0]["responseHeaderModifier"] == {"set": [{"name": "x-inferstack-slot", "value": "green"}]}


def test_an_existing_gateway_is_used_and_not_made() -> None:
    found = environment({"gateway": {"existing": "edge/shared", "class_name": None, "hostname": "llm.example"}})
    assert gateway(found) is None
    assert route(found)["spec"]["parentRefs"][0]["namespace"] == "edge"
    assert route(found)["spec"]["hostnames"] == ["llm.example"]


@pytest.mark.parametrize(("secret", "protocol"), [(None, "HTTP"), ("certificate", "HTTPS")])
def test_a_certificate_makes_the_listener_https(secret: str | None, protocol: str) -> None:
    listener = gateway(environment({"gateway": {"tls_secret": secret, "port": 443}}))["spec"]["listeners"][0]  # type: ignore[index]
    assert (listener["protocol"], listener["port"]) == (protocol, 443)
    assert ("tls" in listener) == (secret is not None)


@pytest.mark.parametrize("variant", ["small", "tiers"])
@pytest.mark.parametrize("slot", ["blue", "green"])
def test_a_cohort_gets_a_rule_before_the_others_that_names_both_slots_too(variant: str, slot: str) -> None:
    template = route_template(environment(VARIANTS[variant]))
    first, *others = route_rules(template, {"blue": 70, "green": 30}, ("x-cohort", "beta", slot))
    assert first["matches"] == [
        {"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"type": "Exact", "name": "x-cohort", "value": "beta"}]}
    ]
    assert {name for name, weight in backends(first).items() if weight} == {name for name in backends(first) if f"-{slot}" in name}
    assert set(backends(first)) == set(backends(others[-1])), "both slots are named"
    assert others == route_rules(template, {"blue": 70, "green": 30})


@pytest.mark.parametrize("port", [80, 443, 8080])
def test_the_load_balancer_before_istio_probes_the_listeners_port_by_tcp(port: int) -> None:
    found = gateway(parse_environment({**SMALL, "platform": "aks", "region": "westeurope", "gateway": {"port": port}}))
    annotations = found["spec"]["infrastructure"]["annotations"]  # type: ignore[index]
    assert annotations[f"service.beta.kubernetes.io/port_{port}_health-probe_protocol"] == "tcp"
