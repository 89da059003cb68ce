import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferstack.environment import Model
from inferstack.planning import catalogue, prices

DATA = Path(catalogue.__file__).parent / "data"
FILES = sorted(DATA.iterdir())
AS_OF = datetime.date(2026, 11, 21)


def load(file: Path) -> Any:
    return json.loads(file.read_text()) if file.suffix == ".json" else yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_data_file_has_a_date_that_is_not_too_old(file: Path) -> None:
    """Prices change monthly, shapes and memory sizes do not: a table older than a year is to be looked at again."""
    written = datetime.date.fromisoformat(str(load(file)["date"]))
    assert written <= max(AS_OF, datetime.date.today())
    assert (max(AS_OF, datetime.date.today()) - written).days <= 400, f"{file.name} is of {written}: renew it"


@pytest.mark.parametrize("file", [f for f in FILES if f.name.startswith(("prices", "zones"))], ids=lambda f: f.name)
def test_a_price_table_names_its_source(file: Path) -> None:
    assert len(load(file)["source"]) > 20


def test_every_measurement_gpu_and_public_row_has_its_source_and_date() -> None:
    rows = load(DATA / "throughput.yaml")["measurements"] + list(load(DATA / "gpus.yaml")["gpus"].values())
    rows += list(load(DATA / "published-fit.yaml")["sources"].values())
    for row in rows:
        assert "http" in str(row.get("source", row.get("url"))), row
        assert datetime.date.fromisoformat(str(row["date"])) <= max(AS_OF, datetime.date.today())


def test_prices_are_positive_and_spot_is_cheaper() -> None:
    for platform in ("gke", "aks"):
        table = load(DATA / f"prices-{platform}.json")
        for machine, regions in (table["machines"] | table["accelerators"]).items():
            assert regions, machine
            for region, (on_demand, spot) in regions.items():
                assert on_demand > 0, (machine, region)
                assert spot is None or 0 < spot < on_demand, (machine, region)


def test_every_priced_machine_is_of_the_catalogue_and_every_machine_has_a_price_somewhere() -> None:
    for platform in ("gke", "aks"):
        assert set(load(DATA / f"prices-{platform}.json")["machines"]) == set(catalogue.machines(platform))


@pytest.mark.parametrize("platform", ["gke", "aks"])
def test_every_region_with_a_price_is_known_with_its_zones(platform: str) -> None:
    priced = {region for row in catalogue.read(f"prices-{platform}.json")["machines"].values() for region in row}
    assert priced <= catalogue.zones(platform).keys()


def test_known_prices() -> None:
    """Spot checks against the price lists."""
    price = prices.machine_price("gke", "g2-standard-4", "us-central1", "on_demand", 1)
    assert price is not None
    assert price.hourly_usd == pytest.approx(0.7068, abs=1e-3)
    attached = prices.machine_price("gke", "n1-standard-4", "us-central1", "on_demand", 1)
    assert attached is not None
    assert attached.hourly_usd == pytest.approx(0.19 + 0.35, abs=1e-3)
    azure = prices.machine_price("aks", "Standard_NC24ads_A100_v4", "eastus", "on_demand", 1)
    assert azure is not None
    assert azure.hourly_usd == pytest.approx(3.673)
    assert prices.machine_price("aks", "Standard_NC24ads_A100_v4", "westeurope", "spot", 1) is None


def test_gpus_of_machines_exist() -> None:
    for platform in ("gke", "aks"):
        for machine in catalogue.machines(platform).values():
            if machine.accelerator:
                assert catalogue.gpu(machine.accelerator), machine.name
                assert catalogue.accelerator_zones(platform, machine.accelerator), machine.accelerator


@pytest.mark.parametrize("platform", ["gke", "aks"])
def test_every_machine_type_names_the_sources_that_it_was_compared_with(platform: str) -> None:
    table = load(DATA / "machines.yaml")[platform]
    for source in table["sources"].values():
        assert source["url"].startswith("https://")
        assert datetime.date.fromisoformat(str(source["date"])) <= datetime.date.fromisoformat(str(source["checked"]))
    for name, row in table["machines"].items():
        assert row["from"], name
        assert set(row["from"]) <= set(table["sources"]), name
    assert {key for row in table["machines"].values() for key in row["from"]} == set(table["sources"]), "a source that no row names"


@pytest.mark.parametrize("platform", ["gke", "aks"])
def test_a_machine_types_figures_agree_with_its_name(platform: str) -> None:
    """Both clouds write vCPUs (Azure; Google's standard types) or GPUs (Google's accelerator types) into the name."""
    for name, machine in catalogue.machines(platform).items():
        if platform == "aks":
            assert machine.vcpus == int(re.match(r"Standard_[A-Z]+(\d+)", name)[1]), name  # type: ignore[index]
        elif match := re.search(r"-(\d+)g$", name):
            assert machine.gpus == int(match[1]), name
        else:
            assert machine.vcpus == int(name.rsplit("-", 1)[1]), name


@pytest.mark.parametrize("platform", ["gke", "aks"])
def test_sizes_of_one_family_grow_in_proportion(platform: str) -> None:
    """Within a family memory per vCPU is the same to 10 %, and it never falls as vCPUs rise: a slip in one row shows."""
    families: dict[str, list[catalogue.Machine]] = {}
    for name, machine in catalogue.machines(platform).items():
        families.setdefault(re.sub(r"\d+(?=g$|$)|(?<=[A-Z])\d+", "", name, count=1), []).append(machine)
    assert sum(len(members) > 1 for members in families.values()) >= 5
    for family, members in families.items():
        ratios = [machine.memory / machine.vcpus for machine in members]
        assert max(ratios) / min(ratios) < (2.01 if family == "a2-megagpu-g" else 1.1), family
        ordered = sorted(members, key=lambda machine: (machine.vcpus, machine.memory))
        assert [machine.memory for machine in ordered] == sorted(machine.memory for machine in members), family


def test_a_t4_is_attached_to_no_more_vcpus_than_google_allows() -> None:
    """cloud.google.com/compute/docs/gpus: one or two T4 with at most 48 vCPUs, four with at most 96."""
    for machine in catalogue.machines("gke").values():
        if machine.attaches:
            assert machine.counts == tuple(n for n, most in ((1, 48), (2, 48), (4, 96)) if machine.vcpus <= most), machine.name


def test_retired_machine_types_point_to_ones_that_are_sold() -> None:
    for platform in ("gke", "aks"):
        for name, row in load(DATA / "machines.yaml")[platform]["retired"].items():
            assert name not in catalogue.machines(platform)
            assert row["use"] in catalogue.machines(platform)
    moved = catalogue.retired("aks", "Standard_NC24s_v3")
    assert moved is not None
    assert moved.since == "2025-09-30"


def test_there_are_models_enough() -> None:
    assert len(catalogue.architectures()) >= 12


DENSE = [
    a
    for a in catalogue.architectures().values()
    if not a.experts and a.name.startswith(("llama", "qwen", "smollm2", "mistral-7b", "tinyllama", "deepseek"))
]


@pytest.mark.parametrize("a", DENSE, ids=lambda a: a.name)
def test_parameters_follow_from_the_shape(a: catalogue.Architecture) -> None:
    """Embeddings, and per layer attention (q, k, v, o) and a gated MLP: a slip in any column shows."""
    attention = 2 * a.hidden * a.heads * a.head_dim + 2 * a.hidden * a.kv_heads * a.head_dim
    mlp = 3 * a.hidden * a.intermediate
    assert a.embedding_parameters + a.layers * (attention + mlp) == pytest.approx(a.parameters, rel=0.002)


@pytest.mark.parametrize("a", catalogue.architectures().values(), ids=lambda a: a.name)
def test_a_shape_is_consistent(a: catalogue.Architecture) -> None:
    assert a.heads % a.kv_heads == 0
    assert a.context >= 512
    assert "/" in a.repository


@pytest.mark.parametrize(
    ("name", "source", "architecture", "found"),
    [
        ("llama-3.1-8b-instruct", "gs://bucket/weights", None, "llama-3.1-8b-instruct"),
        ("chat", "hf://meta-llama/Llama-3.1-8B-Instruct", None, "llama-3.1-8b-instruct"),
        ("chat", "hf://Qwen/Qwen2.5-7B-Instruct-AWQ", None, "qwen2.5-7b-instruct"),
        ("chat", "gs://bucket/weights", "phi-4", "phi-4"),
        ("chat", "gs://bucket/weights", None, None),
        ("phi-4", "gs://bucket/weights", "nothing", None),
    ],
)
def test_a_model_is_found_by_key_name_or_repository(name: str, source: str, architecture: str | None, found: str | None) -> None:
    model = Model(name=name, source=source, architecture=architecture)
    shape = catalogue.architecture(model)
    assert (shape.name if shape else None) == found
