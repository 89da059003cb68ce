"""The linters of rendered manifests on the live objects: what controllers, defaults and a promotion made of them."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from harness.slots import NAMESPACE, Deployed
from machine import client

from tests.policies import test_scanners as scanners

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]
schemas = scanners.schemas
EXPLAINED = yaml.safe_load((Path(scanners.__file__).parent / "explained-kube-score.yaml").read_text()) | {
    "deployment-targeted-by-hpa-does-not-have-replicas-configured": "no manifest has replicas; in the live object the scaler writes them"
}
KINDS = (
    "configmaps,deployments,gateways.gateway.networking.k8s.io,horizontalpodautoscalers,httproutes.gateway.networking.k8s.io,leases,"
    "networkpolicies,poddisruptionbudgets,resourcequotas,services,serviceaccounts"
)


@pytest.fixture
def live(environment: Deployed, tmp_path: Path) -> Path:
    """A folder with one file: the namespace's objects as the server has them."""
    listed = json.loads(environment.kubectl("get", KINDS, "--output=json", "--show-managed-fields"))["items"]
    own = [one for one in listed if one["metadata"]["name"].startswith("inferstack")]
    assert {"Deployment", "HTTPRoute", "Gateway", "NetworkPolicy", "HorizontalPodAutoscaler"} <= {one["kind"] for one in own}
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "objects.yaml").write_text(yaml.safe_dump_all(own))
    return tmp_path / "live"


def test_live_objects_conform_to_their_schemas(live: Path, schemas: Path) -> None:
    rows = scanners.conform(live, schemas)
    assert [f"{row['kind']}/{row['name']}: {row['msg']}" for row in rows if row["status"] != "statusValid"] == []
    assert len(rows) >= 15


def test_kube_score_finds_nothing_in_live_objects_that_is_not_explained(live: Path) -> None:
    done = subprocess.run(
        [scanners.program("kube-score"), "score", "-o", "json", str(live / "objects.yaml")], capture_output=True, text=True, timeout=300
    )
    checked = json.loads(done.stdout)
    found = {
        f"{check['check']['id']} {item['type_meta']['kind']}/{item['object_meta']['name']}"
        for item in checked
        for check in item["checks"]
        if not check["skipped"] and check["grade"] < 10 and check["comments"]
    }
    assert len(checked) >= 10
    assert {one for one in found if one not in EXPLAINED and one.split()[0] not in EXPLAINED} == set()


def test_the_server_reports_no_use_of_an_api_that_ends(environment: Deployed) -> None:
    """It warns of every version that a later release no longer serves."""
    for kind in KINDS.split(","):
        done = client.kubectl(environment.machine, "get", kind, f"--namespace={NAMESPACE}", "--output=name")
        assert "deprecated" not in done.stderr, kind
