"""What can be bought and served: GPUs, machine types, regions and zones, prices, models, weight formats.

Read from the dated files under ``data/``; every file names its sources. Sizes are bytes unless a name says otherwise.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from inferstack.environment import Model
from inferstack.planning.sources import hub_source

GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU; `memory` is what CUDA offers, `bandwidth` bytes per second, `capability` the compute capability."""

    name: str
    memory: int
    bandwidth: float
    tflops: float
    capability: float
    mig: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine type; `counts` are the numbers of `accelerator` that it comes with or can be given."""

    name: str
    platform: str
    vcpus: int
    memory: int
    accelerator: str | None = None
    counts: tuple[int, ...] = ()
    capacity: tuple[str, ...] = ("on_demand", "spot", "reservation", "flex_start")
    attaches: bool = False
    """The accelerator is bought beside the machine (n1), not with it."""
    local_ssds: tuple[int, ...] = ()
    """How many local SSDs it may have, where that is known."""
    comes_with_ssds: bool = False
    """It has them whether they are asked for or not."""

    @property
    def gpus(self) -> int:
        """GPUs of one machine that comes with them, else the fewest that it can be given; 0: none."""
        return self.counts[0] if self.counts else 0


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a model, as its config.json gives it."""

    name: str
    repository: str
    parameters: int
    layers: int
    kv_layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    experts: int
    shipped: int | None
    """Bytes of the published weights, where they are not 16 bits wide."""
    latent: int = 0
    """Values of one token that a layer keeps in place of keys and values per head (multi-head latent attention); 0: none."""
    window: int = 0
    """Tokens of the sliding window."""
    windowed_layers: int = 0
    """Layers that keep no more than the window."""

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True, slots=True)
class Format:
    """A weight format: bits per weight, and who can serve it."""

    name: str
    linear_bits: float
    embedding_bits: float
    engines: tuple[str, ...]
    cpu_engines: tuple[str, ...]
    capability: float
    computes: float
    """Compute capability from which the GPU multiplies in the format itself."""


@dataclass(frozen=True, slots=True)
class Retired:
    """A machine type that the cloud no longer sells."""

    since: str
    use: str


def read(name: str) -> Any:
    """A data file of this package, parsed; `name` with its extension."""
    return _read(name)


@cache
def _read(name: str) -> Any:
    text = (resources.files("inferstack.planning") / "data" / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        return json.loads(text)
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a SafeLoader


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that was probably meant."""
    return next(iter(difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)), None)


@cache
def gpus() -> Mapping[str, Gpu]:
    data = read("gpus.yaml")
    reserve = data["driver_reserve_mib"]
    return {
        name: Gpu(
            name,
            (row["memory_mib"] - reserve) * MIB,
            row["bandwidth_gbs"] * 1e9,
            row["tflops"],
            row["capability"],
            tuple(row.get("mig", ())),
        )
        for name, row in data["gpus"].items()
    }


def gpu(name: str) -> Gpu | None:
    """The GPU of this name; not by its other names, so that one spelling reaches the clouds."""
    return gpus().get(name)


def gpu_meant(name: str) -> str | None:
    """The catalogue's name for what was written: another of its names, or a similar one, where who makes it says nothing."""
    known: dict[str, str] = {}
    for key, row in read("gpus.yaml")["gpus"].items():
        known |= dict.fromkeys((word.removeprefix("nvidia-") for word in (key, *row.get("also", ()))), str(key))
    written = name.lower().removeprefix("nvidia-")
    meant = written if written in known else nearest(written, known)
    return known[meant] if meant else None


@cache
def machines(platform: str) -> Mapping[str, Machine]:
    """Machine types of `gke` or `aks`; empty for other platforms."""
    section = read("machines.yaml").get(platform)
    if not section:
        return {}
    found = {}
    for name, row in section["machines"].items():
        attached = "attach" in row
        counts = tuple(row["attach_counts"]) if attached else (row["gpus"],) if "gpus" in row else ()
        found[name] = Machine(
            name,
            platform,
            row["vcpus"],
            int(row["memory_gib"] * GIB),
            row.get("attach") or row.get("accelerator"),
            counts,
            tuple(row.get("capacity", Machine.__dataclass_fields__["capacity"].default)),
            attached,
            tuple(row.get("local_ssds", ())),
            row.get("comes_with_ssds", False),
        )
    return found


def system_machine(platform: str) -> str | None:
    """Machine type of the nodes for everything but models, where the environment names none."""
    section = read("machines.yaml").get(platform)
    return str(section["system"]) if section else None


def retired(platform: str, machine: str) -> Retired | None:
    row = read("machines.yaml").get(platform, {}).get("retired", {}).get(machine)
    return Retired(str(row["since"]), row["use"]) if row else None


@cache
def zones(platform: str) -> Mapping[str, tuple[str, ...]]:
    """Zones by region; the regions of AKS number theirs 1 to 3."""
    if platform == "gke":
        return {region: tuple(names) for region, names in read("zones-gke.json")["regions"].items()}
    if platform == "aks":
        return dict.fromkeys(read("prices-aks.json")["regions"], ("1", "2", "3"))
    return {}


@cache
def accelerator_zones(platform: str, accelerator: str) -> Mapping[str, tuple[str, ...]]:
    """Zones by region that offer the accelerator; on AKS the regions where a machine type that carries it is sold."""
    if platform == "gke":
        rows = read("zones-gke.json")["accelerators"].get(accelerator, {})
        return {region: tuple(names) for region, names in rows.items()}
    prices = read("prices-aks.json")["machines"] if platform == "aks" else {}
    carriers = [m.name for m in machines(platform).values() if m.accelerator == accelerator]
    regions = sorted({region for name in carriers for region in prices.get(name, {})})
    return {region: zones(platform).get(region, ()) for region in regions}


def accelerators(platform: str) -> list[str]:
    """GPUs that some machine type of the platform carries; all of the catalogue where the platform is no cloud."""
    if not machines(platform):
        return list(gpus())
    return sorted({m.accelerator for m in machines(platform).values() if m.accelerator})


@cache
def architectures() -> Mapping[str, Architecture]:
    found = {}
    for name, row in read("models.yaml")["models"].items():
        shipped = row.get("shipped_gib")
        found[name] = Architecture(
            name,
            row["repository"],
            row["parameters"],
            row["layers"],
            row.get("kv_layers", row["layers"]),
            row["hidden"],
            row["intermediate"],
            row["heads"],
            row["kv_heads"],
            row["head_dim"],
            row["vocab"],
            row["context"],
            row["tied"],
            row.get("experts", 0),
            int(shipped * GIB) if shipped else None,
            row.get("latent", 0),
            row.get("window", 0),
            row.get("windowed_layers", 0),
        )
    return found


_SUFFIXES = ("-awq", "-gptq", "-gguf", "-fp8", "-fp8-dynamic", "-int4", "-int8", "-bnb-4bit", "-quantized")


def architecture(model: Model) -> Architecture | None:
    """The catalogue's entry of a model: its `architecture` key, its name, or the repository that its source names."""
    if model.architecture:
        return architectures().get(model.architecture)
    hub = hub_source(model.source)
    source = hub.repository if hub else model.source.rstrip("/")
    for candidate in (model.name, source.rpartition("/")[2].lower()):
        plain = candidate
        for suffix in _SUFFIXES:
            plain = plain.removesuffix(suffix)
        for name in (candidate, plain):
            if name in architectures():
                return architectures()[name]
    return next((a for a in architectures().values() if a.repository.lower() == source.lower()), None)


@cache
def formats() -> Mapping[str, Format]:
    return {
        name: Format(
            name,
            row["linear_bits"],
            row["embedding_bits"],
            tuple(row["engines"]),
            tuple(row["cpu"]),
            row["capability"],
            row.get("computes", row["capability"]),
        )
        for name, row in read("formats.yaml")["formats"].items()
    }


def gguf_bits(source: str) -> float | None:
    """Bits per weight that the name of a GGUF file or repository gives away."""
    rows: dict[str, float] = read("formats.yaml")["gguf_bits"]
    upper = source.upper().replace("-", "_").replace(".", "_")
    return next((bits for name, bits in sorted(rows.items(), key=lambda r: -len(r[0])) if name in upper), None)
