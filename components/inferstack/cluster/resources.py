"""Makes Pulumi resources of Kubernetes objects that are given as plain dictionaries."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

_CLASSES: dict[tuple[str, str], type[pulumi.CustomResource]] = {
    ("v1", "ConfigMap"): k8s.core.v1.ConfigMap,
    ("v1", "LimitRange"): k8s.core.v1.LimitRange,
    ("v1", "Namespace"): k8s.core.v1.Namespace,
    ("v1", "PersistentVolume"): k8s.core.v1.PersistentVolume,
    ("v1", "PersistentVolumeClaim"): k8s.core.v1.PersistentVolumeClaim,
    ("v1", "ResourceQuota"): k8s.core.v1.ResourceQuota,
    ("v1", "Secret"): k8s.core.v1.Secret,
    ("v1", "Service"): k8s.core.v1.Service,
    ("v1", "ServiceAccount"): k8s.core.v1.ServiceAccount,
    ("apps/v1", "DaemonSet"): k8s.apps.v1.DaemonSet,
    ("apps/v1", "Deployment"): k8s.apps.v1.Deployment,
    ("apps/v1", "StatefulSet"): k8s.apps.v1.StatefulSet,
    ("autoscaling/v2", "HorizontalPodAutoscaler"): k8s.autoscaling.v2.HorizontalPodAutoscaler,
    ("networking.k8s.io/v1", "NetworkPolicy"): k8s.networking.v1.NetworkPolicy,
    ("policy/v1", "PodDisruptionBudget"): k8s.policy.v1.PodDisruptionBudget,
    ("rbac.authorization.k8s.io/v1", "Role"): k8s.rbac.v1.Role,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): k8s.rbac.v1.RoleBinding,
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): k8s.rbac.v1.ClusterRole,
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): k8s.rbac.v1.ClusterRoleBinding,
    ("scheduling.k8s.io/v1", "PriorityClass"): k8s.scheduling.v1.PriorityClass,
}


def make(name: str, manifest: Mapping[str, Any], opts: pulumi.ResourceOptions) -> pulumi.CustomResource:
    """The resource of one object; values may be outputs. An object of a kind that Pulumi does not know becomes a CustomResource."""
    body = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")}
    made = _CLASSES.get((manifest["apiVersion"], manifest["kind"]))
    if made is None:
        return k8s.apiextensions.CustomResource(name, api_version=manifest["apiVersion"], kind=manifest["kind"], **body, opts=opts)
    arguments = {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): value for key, value in body.items()}
    return made(name, **arguments, opts=opts)


def provider(
    name: str,
    *,
    kubeconfig: pulumi.Input[str] | None = None,
    context: str | None = None,
    identifier: pulumi.Input[str] | None = None,
    depends_on: Sequence[pulumi.Resource] = (),
) -> k8s.Provider:
    """The provider that an environment's program uses.

    ConfigMaps and Secrets are updated in place, because their names are fixed; `identifier` names the cluster, so that a renewed kubeconfig
    does not replace everything in it.
    """
    return k8s.Provider(
        name,
        kubeconfig=kubeconfig,
        context=context,
        cluster_identifier=identifier,
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        opts=pulumi.ResourceOptions(depends_on=list(depends_on)),
    )


def customize(manifest: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The object with `changes` merged in at any depth; lists are replaced. The escape hatch of every component."""
    found = dict(manifest)
    for key, value in (changes or {}).items():
        inner = found.get(key)
        found[key] = customize(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return found


def check_roles(component: str, changes: Mapping[str, Any] | None, roles: frozenset[str]) -> None:
    """Refuse changes to an object that the component does not have; raises ValueError that names the ones it has."""
    unknown = sorted(set(changes or {}) - roles)
    if unknown:
        raise ValueError(f"{component}: customize has no object {', '.join(unknown)}; it has {', '.join(sorted(roles))}")
