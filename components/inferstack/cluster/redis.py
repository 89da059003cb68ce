"""RedisCache: a cache in the cluster that speaks the Redis protocol (Valkey by default)."""

from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster.cache import cache_objects
from inferstack.cluster.names import CACHE
from inferstack.cluster.resources import check_roles, customize, make
from inferstack.environment import parse_environment

ROLES = frozenset({"config", "service", "stateful_set", "network_policy", "disruption_budget"})


class RedisCacheArgs(TypedDict):
    """Arguments of a RedisCache."""

    settings: dict[str, Any]
    """The environment object, with the keys of docs/configuration.md; `cache.size` and `cache.engine` decide."""
    image: NotRequired[str]
    """Image by digest; by default the one of the kit's catalogue."""
    customize: NotRequired[dict[str, dict[str, Any]]]
    """Changes that are merged into the objects, by role."""


class RedisCache(pulumi.ComponentResource):
    """A StatefulSet of one disposable cache, its Service, NetworkPolicy and PodDisruptionBudget."""

    url: pulumi.Output[str]
    """Address that the slots use."""

    def __init__(self, name: str, args: RedisCacheArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        environment = parse_environment(args["settings"], f"RedisCache {name}")
        check_roles(f"RedisCache {name}", args.get("customize"), ROLES)
        super().__init__("inferstack:index:RedisCache", name, {key: value for key, value in args.items() if key != "settings"}, opts)
        changes = args.get("customize", {})
        options = pulumi.ResourceOptions(parent=self)
        self.resources = {
            role: make(f"{name}-{role.replace('_', '-')}", customize(manifest, changes.get(role)), options)
            for role, manifest in cache_objects(environment, args.get("image")).items()
        }
        self.url = pulumi.Output.from_input(f"redis://{CACHE}.{environment.namespace}.svc:6379/0")
        self.register_outputs({"url": self.url})
