"""What Envoy is told, and what its answers mean."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferstack.local import gateway
from inferstack.local.gateway import Ports
from inferstack.promotion.weights import Cohort

PORTS = Ports(8080, 9901, 6379, {"blue": 8001, "green": 8002}, {"blue": 9001, "green": 9002})


def cluster(name):
    config = gateway.bootstrap("local", PORTS, Path("/x/routes.json"))
    return next(item for item in config["static_resources"]["clusters"] if item["name"] == name)


@given(st.integers(0, 100))
def test_weights_survive_the_route_file_and_both_slots_are_always_named(blue):
    weights = {"blue": blue, "green": 100 - blue}
    assert gateway.read_weights(gateway.routes(weights, 600)) == weights


@given(st.integers(0, 100), st.sampled_from(["blue", "green"]))
def test_a_cohort_has_a_route_of_its_own_before_the_one_of_all_requests(blue, slot):
    weights, cohort = {"blue": blue, "green": 100 - blue}, Cohort("x-cohort", "beta", slot)
    document = gateway.routes(weights, 600, cohort)
    assert gateway.read_weights(document) == weights
    assert gateway.read_cohort(document) == cohort
    assert gateway.read_cohort(gateway.routes(weights, 600)) is None
    names = [
        [cluster["name"] for cluster in route["route"]["weighted_clusters"]["clusters"]]
        for route in document["resources"][0]["virtual_hosts"][0]["routes"]
    ]
    assert names == [["inferstack-blue", "inferstack-green"]] * 2


@pytest.mark.parametrize("weights", [{"blue": 100}, {"blue": 60, "green": 50}, {"blue": -1, "green": 101}, {"blue": 50, "red": 50}])
def test_weights_that_are_not_shares_of_both_slots_are_refused(weights):
    with pytest.raises(ValueError, match="add up to 100"):
        gateway.routes(weights, 600)


def test_the_version_of_the_routes_changes_with_them_and_only_then():
    versions = [gateway.routes({"blue": 100, "green": 0}, limit)["version_info"] for limit in (600, 600, 30)]
    assert versions[0] == versions[1] != versions[2]


def test_the_route_lives_as_long_as_the_longest_request():
    route = gateway.routes({"blue": 100, "green": 0}, 45)["resources"][0]["virtual_hosts"][0]["routes"][0]["route"]
    assert route["timeout"] == route["idle_timeout"] == "45s"


def test_a_slot_that_is_not_ready_gets_nothing():
    blue = cluster("inferstack-blue")
    assert blue["health_checks"][0]["http_health_check"]["path"] == "/readyz"
    assert blue["common_lb_config"]["healthy_panic_threshold"]["value"] == 0


def test_every_slot_is_a_cluster_of_its_own_port():
    for slot, port in PORTS.slots.items():
        endpoint = cluster(f"inferstack-{slot}")["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        assert endpoint["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": port}


def test_the_applied_version_is_that_of_our_routes():
    dump = {
        "configs": [{"version_info": "1", "route_config": {"name": "other"}}, {"version_info": "2", "route_config": {"name": "inferstack"}}]
    }
    assert gateway.applied_version(dump) == "2"
    assert gateway.applied_version({}) is None
    assert gateway.applied_version({"configs": [{"route_config": {"name": "inferstack"}}]}) is None


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ([{"eds_health_status": "HEALTHY"}], True),
        ([{"eds_health_status": "HEALTHY", "failed_active_health_check": True}], False),
        ([{"eds_health_status": "HEALTHY"}, {"eds_health_status": "HEALTHY", "failed_active_health_check": True}], False),
        ([], False),
    ],
)
def test_a_slot_is_healthy_when_every_endpoint_passes_its_checks(health, expected):
    clusters = {"cluster_statuses": [{"name": "inferstack-blue", "host_statuses": [{"health_status": item} for item in health]}]}
    assert gateway.cluster_healthy(clusters, "blue") is expected
    assert gateway.cluster_healthy(clusters, "green") is False


def test_ports_survive_the_state_file():
    assert Ports.from_json(PORTS.to_json()) == PORTS
