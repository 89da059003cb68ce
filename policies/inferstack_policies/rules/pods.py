"""Pods as the Pod Security Standard `restricted` wants them, and a little more."""

from collections.abc import Iterator, Sequence
from typing import Any

from inferstack_policies.model import Context, Finding, Resource, Rule
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
    pod_templates,
    sequence,
)

LOWEST_ID = 10_000
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SELINUX = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_VOLUMES = frozenset(
    {
        "name",
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "hostPath",
    }
)
"""What the standard `restricted` lets a pod mount; hostPath has a rule of its own."""


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
    for where, spec in pod_specs(r):
        for key in ("fsGroup", "supplementalGroups"):
            value = at(spec, "securityContext", key)
            if 0 in map(number, sequence(value) or [value]):
                yield f"{where}.securityContext.{key}", "the pod is in root's group, and may read what that group may."


def escalation(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        if is_device_plugin(r) and _added(container) == [_SEES_SLICES]:
            continue  # the API server refuses to forbid it beside that capability
        if at(container, "securityContext", "allowPrivilegeEscalation") is not False:
            yield f"{where}.securityContext.allowPrivilegeEscalation", "the process may gain more rights than its parent has."


def privileged(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        if at(container, "securityContext", "privileged") not in (None, False):  # `y` is true for the tools that send it
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
            if spec.get(key) not in (None, False):
                yield f"{where}.{key}", f"the pod shares the node's {key.removeprefix('host')} namespace."


def host_path(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, spec in pod_specs(r) if not is_device_plugin(r) else ():
        for i, volume in enumerate(sequence(spec.get("volumes"))):
            if mapping(volume).get("hostPath") is not None:
                yield f"{where}.volumes[{i}].hostPath", f"the pod mounts {at(volume, 'hostPath', 'path')} of the node."


def confined(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    """AppArmor, SELinux, the mask over /proc and Windows' host processes, of pods and of containers."""
    for where, template in pod_templates(r):
        annotations = mapping(at(template, "metadata", "annotations"))
        for key in annotations:
            if key.startswith(_APPARMOR) and not str(annotations.get(key)).startswith(("runtime/default", "localhost/")):
                yield f"{where}.metadata.annotations[{key}]".removeprefix("."), "AppArmor does not hold the process."
    for where, holder in [*pod_specs(r), *((where, container) for where, container, _spec in containers(r))]:
        context = mapping(holder.get("securityContext"))
        if at(context, "appArmorProfile", "type") not in (None, "RuntimeDefault", "Localhost"):
            yield f"{where}.securityContext.appArmorProfile", "AppArmor does not hold the process."
        labels = mapping(context.get("seLinuxOptions"))
        if labels.get("user") or labels.get("role") or labels.get("type") not in _SELINUX:
            yield f"{where}.securityContext.seLinuxOptions", "the process gets a label of SELinux that is none of a container's."
        if context.get("procMount") not in (None, "Default"):
            yield f"{where}.securityContext.procMount", "parts of /proc that tell of the node are not masked."
        if at(context, "windowsOptions", "hostProcess") not in (None, False):
            yield f"{where}.securityContext.windowsOptions.hostProcess", "the process runs on the node itself."


def volume_kinds(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, spec in pod_specs(r):
        for i, volume in enumerate(sequence(spec.get("volumes"))):
            for kind in sorted(mapping(volume).keys() - _VOLUMES):
                yield f"{where}.volumes[{i}].{kind}", f"the pod mounts {kind} by itself, with the node's rights."


def probe_host(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        hooks = mapping(container.get("lifecycle"))
        handlers = {key: container.get(key) for key in ("readinessProbe", "livenessProbe", "startupProbe")}
        handlers |= {f"lifecycle.{key}": hooks.get(key) for key in ("postStart", "preStop")}
        for name, handler in handlers.items():
            for action in ("httpGet", "tcpSocket"):
                if at(handler, action, "host"):
                    yield f"{where}.{name}.{action}.host", "the node asks whatever address the pod names."


def host_port(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        for i, port in enumerate(sequence(container.get("ports"))):
            if number(mapping(port).get("hostPort")):
                yield f"{where}.ports[{i}].hostPort", "a port of the node is taken: only one replica fits on it."


def token(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    """What a pod leaves open its account decides."""
    without = {
        (r.namespace, r.object_name)
        for r in resources
        if r.kind == "ServiceAccount" and r.is_kubernetes and r.props.get("automountServiceAccountToken") is False
    }
    for r in resources:
        for where, spec in pod_specs(r):
            mounted = spec.get("automountServiceAccountToken")
            by_account = mounted is None and (r.namespace, str(spec.get("serviceAccountName") or "default")) in without
            if mounted is not False and not by_account:
                yield Finding(r, f"{where}.automountServiceAccountToken", "the pod gets a token for the API server that it does not need.")


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


RULES = (
    Rule(
        "pod-non-root",
        "error",
        "Root in a container is root on the node once it escapes.",
        "Set runAsNonRoot: true.",
        ("KSV-0012", "KSV-0105", "CKV_K8S_6", "CKV_K8S_23"),
        WORKLOADS,
        non_root,
    ),
    Rule(
        "pod-user-id",
        "error",
        "Low identifiers are accounts of the node.",
        f"Set runAsUser and runAsGroup above {LOWEST_ID}.",
        ("KSV-0020", "KSV-0021", "KSV-0116", "CKV_K8S_40", "kube-score:container-security-context-user-group-id"),
        WORKLOADS,
        user_id,
    ),
    Rule(
        "pod-escalation",
        "error",
        "A set-user-id program would give rights back.",
        "Set allowPrivilegeEscalation: false.",
        ("KSV-0001", "CKV_K8S_20"),
        WORKLOADS,
        escalation,
    ),
    Rule(
        "pod-privileged",
        "error",
        "A privileged container owns its node.",
        "Leave privileged out; GPUs come by the device plugin.",
        ("KSV-0017", "CKV_K8S_16", "kube-score:container-security-context-privileged"),
        WORKLOADS,
        privileged,
    ),
    Rule(
        "pod-capabilities",
        "error",
        "A server needs no capabilities of the kernel.",
        "Drop ALL; add at most NET_BIND_SERVICE.",
        ("KSV-0003", "KSV-0005", "KSV-0022", "KSV-0106", "KSV-0119", "KSV-0120", "CKV_K8S_25", "CKV_K8S_28", "CKV_K8S_37"),
        WORKLOADS,
        capabilities,
    ),
    Rule(
        "pod-read-only-root",
        "error",
        "What cannot be written cannot be replaced by an attacker.",
        "Set readOnlyRootFilesystem: true and mount what is written.",
        ("KSV-0014", "CKV_K8S_22", "kube-score:container-security-context-readonlyrootfilesystem"),
        WORKLOADS,
        read_only_root,
    ),
    Rule(
        "pod-seccomp",
        "error",
        "The filter of the runtime takes most of the kernel out of reach.",
        "Set seccompProfile.type: RuntimeDefault.",
        ("KSV-0030", "KSV-0104", "CKV_K8S_31"),
        WORKLOADS,
        seccomp,
    ),
    Rule(
        "pod-host-namespaces",
        "error",
        "Sharing a namespace of the node undoes the container.",
        "Leave hostNetwork, hostPID and hostIPC out.",
        ("KSV-0008", "KSV-0009", "KSV-0010", "CKV_K8S_17", "CKV_K8S_18", "CKV_K8S_19"),
        WORKLOADS,
        host_namespaces,
    ),
    Rule(
        "pod-host-path",
        "error",
        "The node's files hold credentials of all its pods.",
        "Use emptyDir, a claim or a CSI volume.",
        ("KSV-0006", "KSV-0023", "KSV-0121", "CKV_K8S_27"),
        WORKLOADS,
        host_path,
    ),
    Rule(
        "pod-confined",
        "error",
        "What the runtime lays around a container is taken off by these.",
        "Leave appArmorProfile, seLinuxOptions, procMount and hostProcess as the runtime sets them.",
        ("KSV-0002", "KSV-0025", "KSV-0027", "KSV-0103"),
        WORKLOADS,
        confined,
    ),
    Rule(
        "pod-volume-kind",
        "error",
        "The standard `restricted` lists what a pod may mount.",
        "Mount storage by a claim or a CSI volume.",
        ("KSV-0028",),
        WORKLOADS,
        volume_kinds,
    ),
    Rule(
        "pod-probe-host",
        "error",
        "The kubelet asks from the node, past every NetworkPolicy.",
        "Leave host out of probes and hooks: they ask the pod itself.",
        (),
        WORKLOADS,
        probe_host,
    ),
    Rule(
        "pod-host-port",
        "error",
        "A port of the node bypasses Services and NetworkPolicies.",
        "Leave hostPort out; use a Service.",
        ("KSV-0024", "CKV_K8S_26"),
        WORKLOADS,
        host_port,
    ),
    Rule(
        "pod-token",
        "error",
        "A serving pod has no business with the API server.",
        "Set automountServiceAccountToken: false.",
        ("KSV-0036", "CKV_K8S_38"),
        check_stack=token,
    ),
    Rule(
        "pod-service-account",
        "error",
        "An own account gets own rights, and loses them with the slot.",
        "Give each slot its ServiceAccount.",
        ("CKV_K8S_41",),
        WORKLOADS,
        service_account,
    ),
    Rule(
        "pod-sysctls",
        "error",
        "Kernel settings belong to the node pool, where they hold for all.",
        "Set them by the pool (linux_os_config on AKS).",
        ("KSV-0026",),
        WORKLOADS,
        sysctls,
    ),
)
