"""Who may do what: roles, bindings, namespaces."""

from collections.abc import Iterator, Sequence
from typing import Any

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.shapes import WORKLOADS, at, is_device_plugin, mapping, sequence, words

ROLES = frozenset({"Role", "ClusterRole"})
_ESCALATING = {"escalate", "bind", "impersonate"}
_SHELLS = {"pods/exec", "pods/attach", "pods/portforward", "nodes/proxy"}
"""Whoever may reach these by any verb is inside of any pod: a connection opens with `get` too."""
_RUNNING = {
    *("pods", "pods/ephemeralcontainers", "serviceaccounts/token", "deployments", "statefulsets", "daemonsets", "replicasets"),
    *("replicationcontrollers", "jobs", "cronjobs"),
}
"""Whoever may write these runs what they like, as any account of the namespace."""
_RULING = {
    *("roles", "rolebindings", "clusterroles", "clusterrolebindings", "certificatesigningrequests/approval", "persistentvolumes"),
    *("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
}
"""Whoever may write these changes what they or others may do: rights, identities, admission, folders of nodes."""
_EVERYBODY = {"system:anonymous", "system:unauthenticated", "system:authenticated", "system:serviceaccounts", "system:masters"}
_MAKING = {"create", "update", "patch", "*"}
_WRITING = {*_MAKING, "delete", "deletecollection"}
_BROAD = ("roles/owner", "roles/editor", "roles/container.admin", "roles/storage.admin", "roles/iam.serviceAccountTokenCreator")
_AZURE_BROAD = ("8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "b24988ac-6180-42a0-ab88-20f7382dd24c")
"""Role definitions of Owner and Contributor."""
NAMESPACED = WORKLOADS | {
    *("Service", "ConfigMap", "Secret", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "PodDisruptionBudget", "Ingress"),
    *("HorizontalPodAutoscaler", "ScaledObject", "HTTPRoute", "Gateway", "PersistentVolumeClaim", "ResourceQuota", "LimitRange"),
    *("Lease", "ExternalSecret", "SecretStore", "PodMonitor", "PodMonitoring", "ServiceMonitor", "PrometheusRule"),
}


def _rules(r: Resource) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, item in enumerate(sequence(r.props.get("rules"))):
        yield i, dict(mapping(item))


def wildcard(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for i, item in _rules(r):
        for key in ("verbs", "resources", "apiGroups", "nonResourceURLs"):
            if any("*" in word for word in words(item.get(key))):
                yield f"rules[{i}].{key}", f"the role may do things that nobody has listed (`*` in {key})."
    if r.props.get("aggregationRule") is not None:
        yield "aggregationRule", "the role takes in the rules of every role that gets a label."


def secrets(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for i, item in _rules(r):
        reads = {"get", "list", "watch", *_WRITING} & words(item.get("verbs"))
        if "secrets" in sequence(item.get("resources")) and reads and not sequence(item.get("resourceNames")):
            yield f"rules[{i}]", "the role reaches every Secret of its scope."


def escalation(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for i, item in _rules(r):
        found = sorted(_ESCALATING & words(item.get("verbs")))
        if found:
            yield f"rules[{i}].verbs", f"the role may give itself more rights ({', '.join(found)})."
        verbs, resources = words(item.get("verbs")), words(item.get("resources"))
        running = (_SHELLS & resources if verbs else set()) | (_RUNNING & resources if _MAKING & verbs else set())
        if running:
            yield f"rules[{i}].resources", f"the role may run anything by {', '.join(sorted(running))}."
        if _MAKING & verbs and _RULING & resources:
            yield f"rules[{i}].resources", f"the role may change what others may do by {', '.join(sorted(_RULING & resources))}."


def admin(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if at(r.props, "roleRef", "name") in ("cluster-admin", "admin", "edit"):
        yield "roleRef", f"everybody in the binding gets {at(r.props, 'roleRef', 'name')}."
    for i, subject in enumerate(sequence(r.props.get("subjects"))):
        if str(mapping(subject).get("name")) in _EVERYBODY:
            yield f"subjects[{i}]", f"the binding holds for {mapping(subject).get('name')}."
        if mapping(subject).get("kind") == "ServiceAccount" and mapping(subject).get("name") == "default":
            yield f"subjects[{i}]", "every pod that names no account of its own gets these rights."


def cloud_role(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    role = str(r.props.get("role") or "")
    if role in _BROAD:
        yield "role", f"`{role}` is far more than a node or a slot needs."
    definition = str(r.props.get("roleDefinitionId") or "")
    if definition.rpartition("/")[2] in _AZURE_BROAD:
        yield "roleDefinitionId", "Owner or Contributor is far more than a node or a slot needs."
    for key in ("member", "members"):
        value = r.props.get(key)
        for member in [value] if isinstance(value, str) else sequence(value):
            if member in ("allUsers", "allAuthenticatedUsers"):
                yield key, f"`{member}` is the whole internet."


def default_namespace(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.is_kubernetes and r.namespace == "default":
        yield "metadata.namespace", "the object stands in the namespace that everybody shares."
    if r.kind in WORKLOADS and r.namespace in ("kube-system", "kube-public", "kube-node-lease"):
        yield "metadata.namespace", f"{r.namespace} is the cluster's own, with accounts that may do everything."


def pod_security(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    """Every namespace refuses pods that break `restricted`, but for one that holds device plugins and nothing else."""
    for namespace in (r for r in resources if r.kind == "Namespace" and r.is_kubernetes):
        held = [r for r in resources if r.kind in WORKLOADS and r.is_kubernetes and r.namespace == namespace.object_name]
        plugins_only = bool(held) and all(is_device_plugin(r) for r in held)
        level = mapping(namespace.metadata.get("labels")).get("pod-security.kubernetes.io/enforce")
        if level != "restricted" and not plugins_only:
            yield Finding(namespace, "metadata.labels", "the API server does not refuse pods that break the standard `restricted`.")


RULES = (
    Rule(
        "role-wildcard",
        "error",
        "What a wildcard allows grows with every new resource.",
        "List verbs, resources and groups.",
        ("KSV-0044", "KSV-0045", "KSV-0046", "KSV-0112", "CKV_K8S_49"),
        ROLES,
        wildcard,
    ),
    Rule(
        "role-secrets",
        "error",
        "A role over all Secrets is a role over everything they open.",
        "Name the Secret by resourceNames.",
        ("KSV-0041", "KSV-0113", "CKV2_K8S_5"),
        ROLES,
        secrets,
    ),
    Rule(
        "role-escalation",
        "error",
        "These rights are a way to all rights.",
        "Leave them out; let the pipeline create pods and roles.",
        (
            *("KSV-0043", "KSV-0047", "KSV-0048", "KSV-0050", "KSV-0051", "KSV-0052", "KSV-0053", "KSV-0054", "KSV-0055", "KSV-0114"),
            *("CKV_K8S_155", "CKV_K8S_156", "CKV_K8S_157", "CKV_K8S_158", "CKV2_K8S_2", "CKV2_K8S_3"),
        ),
        ROLES,
        escalation,
    ),
    Rule(
        "binding-admin",
        "error",
        "A broad role is used by whoever gets into one pod.",
        "Bind a role of the things that are needed.",
        ("KSV-0111", "KSV-0122", "KSV-0123", "KSV-01011", "CKV_K8S_42"),
        frozenset({"RoleBinding", "ClusterRoleBinding"}),
        admin,
    ),
    Rule(
        "cloud-role-broad",
        "error",
        "Node and slot identities are reachable from pods.",
        "Grant the narrow role on the one bucket, registry or vault.",
        ("CKV_GCP_41", "CKV_GCP_49", "GCP-0007"),
        frozenset({"IAMMember", "IAMBinding", "BucketIAMMember", "BucketIAMBinding", "RepositoryIamMember", "RoleAssignment"}),
        cloud_role,
    ),
    Rule(
        "namespace-default",
        "error",
        "Policies, quotas and deletions hold by namespace.",
        "Give the environment a namespace of its own.",
        ("KSV-0110", "KSV-0037", "CKV_K8S_21"),
        NAMESPACED,
        default_namespace,
    ),
    Rule(
        "namespace-pod-security",
        "error",
        "The API server's own check is the last one that nobody can skip.",
        "Label the namespace pod-security.kubernetes.io/enforce: restricted.",
        (),
        check_stack=pod_security,
    ),
)
