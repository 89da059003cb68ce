"""The typed environment: parse, validate, explain. Nothing else reads raw configuration.

One environment is the object under ``inferstack:environment`` of ``stacks/Pulumi.<name>.yaml``.

    environment = load_environment(Path("stacks"), "local")     # raises InvalidEnvironment
    environment.models[0].quantization                            # 'gguf'
"""

from inferstack.environment.combinations import check_combinations
from inferstack.environment.explain import explain
from inferstack.environment.files import (
    BASE_KEY,
    CONFIG_KEY,
    FINDINGS_KEY,
    SLOT_KEY,
    environment_names,
    lay_over,
    load_environment,
    read_config,
    read_raw,
    resolve_config,
)
from inferstack.environment.kinds import (
    ALB_CLASS,
    ENGINE_IMAGES,
    METRICS_PORT,
    TENSOR_PARALLEL,
    UNMEASURED,
    Capacity,
    EngineKind,
    Layer,
    Platform,
    Quantization,
    SlotName,
)
from inferstack.environment.parse import parse_environment
from inferstack.environment.problems import InvalidEnvironment, Problem
from inferstack.environment.schema import Budget, Cloud, Environment, Monitoring, Network, SecretStore, Waiver
from inferstack.environment.traffic import ROUTING_HEADERS, Access, Cache, Drain, Gates, Gateway, Header, Promotion, SemanticCache, Tier
from inferstack.environment.workload import Engine, GpuPool, Model, QualityTier, Replicas, Resources, Scaling, Slots

__all__ = [
    "ALB_CLASS",
    "BASE_KEY",
    "CONFIG_KEY",
    "ENGINE_IMAGES",
    "FINDINGS_KEY",
    "METRICS_PORT",
    "ROUTING_HEADERS",
    "SLOT_KEY",
    "TENSOR_PARALLEL",
    "UNMEASURED",
    "Access",
    "Budget",
    "Cache",
    "Capacity",
    "Cloud",
    "Drain",
    "Engine",
    "EngineKind",
    "Environment",
    "Gates",
    "Gateway",
    "GpuPool",
    "Header",
    "InvalidEnvironment",
    "Layer",
    "Model",
    "Monitoring",
    "Network",
    "Platform",
    "Problem",
    "Promotion",
    "QualityTier",
    "Quantization",
    "Replicas",
    "Resources",
    "Scaling",
    "SecretStore",
    "SemanticCache",
    "SlotName",
    "Slots",
    "Tier",
    "Waiver",
    "check_combinations",
    "environment_names",
    "explain",
    "lay_over",
    "load_environment",
    "parse_environment",
    "read_config",
    "read_raw",
    "resolve_config",
]
