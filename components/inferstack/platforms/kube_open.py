"""The adapter of a cluster environment, put together from its file and from what is found in the cluster."""

import os
from contextlib import suppress
from pathlib import Path

from inferstack.cluster.names import slot_name
from inferstack.environment import Environment, Layer, Platform, SlotName
from inferstack.local.keys import read_promotion_key
from inferstack.local.layout import Layout
from inferstack.platforms.kube_api import KubeApi
from inferstack.platforms.kube_reach import default_reach
from inferstack.platforms.kube_render import ApplyRenderer, PulumiRenderer, Renderer
from inferstack.platforms.kubernetes import KEY_VARIABLE, KubernetesPlatform


def open_cluster(root: Path, name: str, environment: Environment) -> KubernetesPlatform:
    """Connect by the kubeconfig (`context` of the environment). Raises PlatformError, ModuleNotFoundError (the extra `kubernetes`)."""
    return connect(root, name, environment)[1]


def connect(root: Path, name: str, environment: Environment) -> tuple[KubeApi, KubernetesPlatform]:
    """The adapter and the API server that it talks to. Its API key: INFERSTACK_KEY, else the one that `inferstack up` made."""
    api = KubeApi.from_kubeconfig(environment.context)
    key = os.environ.get(KEY_VARIABLE)
    with suppress(FileNotFoundError):
        key = key or read_promotion_key(Layout(root, name))
    reach = default_reach(environment.context)
    return api, KubernetesPlatform(api, name, environment, choose_renderer(api, root, name, environment), reach, key)


def choose_renderer(api: KubeApi, root: Path, name: str, environment: Environment) -> Renderer:
    """By the slot's Pulumi stack where one manages the slots, else by apply.

    Slots of a cloud's cluster carry what only their stack knows (identities, volumes), so there it is always the stack.
    """
    if environment.platform in (Platform.GKE, Platform.AKS) or (environment.layer is Layer.PLATFORM and by_pulumi(api, environment)):
        return PulumiRenderer(root, name, environment)
    return ApplyRenderer(name, environment)


def by_pulumi(api: KubeApi, environment: Environment) -> bool:
    """Whether the slots were made by `pulumi up`."""
    path = f"/apis/apps/v1/namespaces/{environment.namespace}/deployments/{slot_name(SlotName.BLUE)}"
    found = api.get(path) or {}
    managers = {entry.get("manager", "") for entry in found.get("metadata", {}).get("managedFields") or ()}
    return any(manager.startswith("pulumi") for manager in managers)
