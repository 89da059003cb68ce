"""Pods as the Pod Security Standard `restricted` wants them, and a little more."""

from collections.abc import Iterator
from typing import Any

from inferstack_policies.model import Context, Resource, Rule
from inferstack_policies.shapes import (
    SLOT_LABEL,
    WORKLOADS,
    at,
    containers,
    is_device_plugin,
    labels_of_pods,
    mapping,
    number,
    pod_specs,
    quantity,
    sequence,
)

LOWEST_ID = 10_000


def _effective(container: Any, spec: Any, key: str) -> Any:
    """A security setting of a container, or of its pod where the container has none."""
    own = at(container, "securityContext", key)
    return own if own is not None else at(spec, "securityContext", key)


def non_root(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, spec in containers(r) if not is_device_plugin(r) else ():
        if _effective(container, spec, "runAsNonRoot") is not True:
            yield f"{where}.securityContext.runAsNonRoot", "the container may run as root."


def user_id(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, spec in containers(r) if not is_device_plugin(r) else ():
        for key in ("runAsUser", "runAsGroup"):
            found = number(_effective(container, spec, key))
            if found is None or found <= LOWEST_ID:
                shown = "not set" if found is None else f"{found:.0f}"
                yield f"{where}.securityContext.{key}", f"{key} is {shown}: it may be an account of the node."


def escalation(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        if is_device_plugin(r) and _added(container) == [_SEES_SLICES]:
            continue  # the API server refuses to forbid it beside that capability
        if at(container, "securityContext", "allowPrivilegeEscalation") is not False:
            yield f"{where}.securityContext.allowPrivilegeEscalation", "the process may gain more rights than its parent has."


def privileged(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        if at(container, "securityContext", "privileged") is True:
            yield f"{where}.securityContext.privileged", "the container has all rights on the node."


_SEES_SLICES = "SYS_ADMIN"
"""What a device plugin needs to see the slices of a partitioned GPU (NVIDIA's chart of its plugin)."""


def _added(container: Any) -> list[str]:
    return [str(item) for item in sequence(at(container, "securityContext", "capabilities", "add"))]


def capabilities(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    harmless = {"NET_BIND_SERVICE"} | ({_SEES_SLICES} if is_device_plugin(r) else set())
    for where, container, _spec in containers(r):
        dropped = [str(item).upper() for item in sequence(at(container, "securityContext", "capabilities", "drop"))]
        added = _added(container)
        if "ALL" not in dropped:
            yield f"{where}.securityContext.capabilities.drop", "not all capabilities are dropped."
        if any(item not in harmless for item in added):
            yield f"{where}.securityContext.capabilities.add", f"capabilities are added: {', '.join(added)}."


def read_only_root(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        if at(container, "securityContext", "readOnlyRootFilesystem") is not True:
            yield f"{where}.securityContext.readOnlyRootFilesystem", "the container can change its own programs."


def seccomp(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, spec in containers(r):
        if at(_effective(container, spec, "seccompProfile"), "type") not in ("RuntimeDefault", "Localhost"):
            yield f"{where}.securityContext.seccompProfile", "system calls are not filtered."


def host_namespaces(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, spec in pod_specs(r):
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(key) is True:
                yield f"{where}.{key}", f"the pod shares the node's {key.removeprefix('host')} namespace."


def host_path(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, spec in pod_specs(r) if not is_device_plugin(r) else ():
        for i, volume in enumerate(sequence(spec.get("volumes"))):
            if mapping(volume).get("hostPath") is not None:
                yield f"{where}.volumes[{i}].hostPath", f"the pod mounts {at(volume, 'hostPath', 'path')} of the node."


def host_port(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        for i, port in enumerate(sequence(container.get("ports"))):
            if number(mapping(port).get("hostPort")):
                yield f"{where}.ports[{i}].hostPort", "a port of the node is taken: only one replica fits on it."


def token(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, spec in pod_specs(r):
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{where}.automountServiceAccountToken", "the pod gets a token for the API server that it does not need."


def service_account(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    slot = SLOT_LABEL in labels_of_pods(r)
    for where, spec in pod_specs(r):
        harmless = not slot and spec.get("automountServiceAccountToken") is False
        if spec.get("serviceAccountName") in (None, "", "default") and not harmless:
            yield f"{where}.serviceAccountName", "the pod runs under the namespace's default account, with whatever others gave it."


def sysctls(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, spec in pod_specs(r):
        for i, item in enumerate(sequence(at(spec, "securityContext", "sysctls"))):
            yield f"{where}.securityContext.sysctls[{i}]", f"the pod sets {mapping(item).get('name')} of the node's kernel."


def memory(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r, init=False):
        request, limit = at(container, "resources", "requests", "memory"), at(container, "resources", "limits", "memory")
        if limit is None:
            yield f"{where}.resources.limits.memory", "a leak takes the node's memory and its other pods."
        elif quantity(request) is None or quantity(request) != quantity(limit):
            yield f"{where}.resources.requests.memory", f"request {request} is not limit {limit}: the pod may be killed below its limit."


def requests(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r, init=False):
        for key in ("cpu", "memory"):
            if at(container, "resources", "requests", key) is None:
                yield f"{where}.resources.requests.{key}", f"no {key} is requested: the scheduler packs the node without it."


def ephemeral_storage(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r, init=False):
        for section in ("requests", "limits"):
            if at(container, "resources", section, "ephemeral-storage") is None:
                yield f"{where}.resources.{section}.ephemeral-storage", "a full disk of the node evicts its pods."


RULES = (
    Rule(
        "pod-non-root",
        "error",
        "Root in a container is root on the node once it escapes.",
        "Set runAsNonRoot: true.",
        ("KSV0012", "KSV0105", "CKV_K8S_6", "CKV_K8S_23"),
        WORKLOADS,
        non_root,
    ),
    Rule(
        "pod-user-id",
        "error",
        "Low identifiers are accounts of the node.",
        f"Set runAsUser and runAsGroup above {LOWEST_ID}.",
        ("KSV0020", "KSV0021", "CKV_K8S_40", "kube-score:container-security-context-user-group-id"),
        WORKLOADS,
        user_id,
    ),
    Rule(
        "pod-escalation",
        "error",
        "A set-user-id program would give rights back.",
        "Set allowPrivilegeEscalation: false.",
        ("KSV0001", "CKV_K8S_20"),
        WORKLOADS,
        escalation,
    ),
    Rule(
        "pod-privileged",
        "error",
        "A privileged container owns its node.",
        "Leave privileged out; GPUs come by the device plugin.",
        ("KSV0017", "CKV_K8S_16", "kube-score:container-security-context-privileged"),
        WORKLOADS,
        privileged,
    ),
    Rule(
        "pod-capabilities",
        "error",
        "A server needs no capabilities of the kernel.",
        "Drop ALL; add at most NET_BIND_SERVICE.",
        ("KSV0003", "KSV0106", "CKV_K8S_28", "CKV_K8S_37"),
        WORKLOADS,
        capabilities,
    ),
    Rule(
        "pod-read-only-root",
        "error",
        "What cannot be written cannot be replaced by an attacker.",
        "Set readOnlyRootFilesystem: true and mount what is written.",
        ("KSV0014", "CKV_K8S_22", "kube-score:container-security-context-readonlyrootfilesystem"),
        WORKLOADS,
        read_only_root,
    ),
    Rule(
        "pod-seccomp",
        "error",
        "The filter of the runtime takes most of the kernel out of reach.",
        "Set seccompProfile.type: RuntimeDefault.",
        ("KSV0030", "KSV0104", "CKV_K8S_31"),
        WORKLOADS,
        seccomp,
    ),
    Rule(
        "pod-host-namespaces",
        "error",
        "Sharing a namespace of the node undoes the container.",
        "Leave hostNetwork, hostPID and hostIPC out.",
        ("KSV0008", "KSV0009", "KSV0010", "CKV_K8S_17", "CKV_K8S_18", "CKV_K8S_19"),
        WORKLOADS,
        host_namespaces,
    ),
    Rule(
        "pod-host-path",
        "error",
        "The node's files hold credentials of all its pods.",
        "Use emptyDir, a claim or a CSI volume.",
        ("KSV0023", "CKV_K8S_27"),
        WORKLOADS,
        host_path,
    ),
    Rule(
        "pod-host-port",
        "error",
        "A port of the node bypasses Services and NetworkPolicies.",
        "Leave hostPort out; use a Service.",
        ("KSV0024", "CKV_K8S_26"),
        WORKLOADS,
        host_port,
    ),
    Rule(
        "pod-token",
        "error",
        "A serving pod has no business with the API server.",
        "Set automountServiceAccountToken: false.",
        ("KSV0036", "CKV_K8S_38"),
        WORKLOADS,
        token,
    ),
    Rule(
        "pod-service-account",
        "error",
        "An own account gets own rights, and loses them with the slot.",
        "Give each slot its ServiceAccount.",
        ("CKV_K8S_41", "CKV_K8S_42"),
        WORKLOADS,
        service_account,
    ),
    Rule(
        "pod-sysctls",
        "error",
        "Kernel settings belong to the node pool, where they hold for all.",
        "Set them by the pool (linux_os_config on AKS).",
        ("KSV0026",),
        WORKLOADS,
        sysctls,
    ),
    Rule(
        "pod-memory-limit",
        "error",
        "Memory cannot be squeezed: what is promised must be there.",
        "Set memory request and limit to the same.",
        ("KSV0018", "CKV_K8S_12", "CKV_K8S_13", "kube-score:container-resources"),
        WORKLOADS,
        memory,
    ),
    Rule(
        "pod-requests",
        "error",
        "Without requests a node is overbooked, and no scaler can compute a share.",
        "Set requests for cpu and memory.",
        ("KSV0015", "KSV0016", "CKV_K8S_10", "CKV_K8S_13", "CKV_K8S_12"),
        WORKLOADS,
        requests,
    ),
    Rule(
        "pod-ephemeral-storage",
        "error",
        "Weights and logs fill disks.",
        "Set ephemeral-storage request and limit.",
        ("kube-score:container-ephemeral-storage-request-and-limit",),
        WORKLOADS,
        ephemeral_storage,
    ),
)
