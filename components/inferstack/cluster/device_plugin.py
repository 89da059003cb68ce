"""The NVIDIA device plugin, for clusters whose cloud installs the driver only (AKS); pure."""

from typing import Any

from inferstack.cluster.images import reference
from inferstack.cluster.names import ACCELERATOR_LABEL, GPU_TAINT, component_labels, metadata
from inferstack.cluster.security import root_container_security

NAMESPACE = "inferstack-gpu"


def device_plugin_objects(partitioned: bool = False, sharing: int = 0) -> dict[str, dict[str, Any]]:
    """The plugin's objects by role: namespace, config (where GPUs are shared), default_deny, network_policy, daemon_set.

    The plugin needs the kubelet's socket folder of the host, which no restricted namespace allows: it gets one of its own. To see the
    slices of a partitioned GPU it needs SYS_ADMIN and NVIDIA_MIG_MONITOR_DEVICES, as in NVIDIA's own chart (nvidia-container-toolkit docs).
    """
    labels = component_labels("device-plugin")
    privileged = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}
    arguments = [f"--mig-strategy={'single' if partitioned else 'none'}", "--fail-on-init-error=false"]
    mounts: list[dict[str, Any]] = [{"name": "device-plugins", "mountPath": "/var/lib/kubelet/device-plugins"}]
    volumes: list[dict[str, Any]] = [{"name": "device-plugins", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}}]
    found: dict[str, dict[str, Any]] = {
        "namespace": {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": metadata(NAMESPACE, None, component_labels("namespace") | privileged),
        }
    }
    if sharing > 1:
        settings = f"version: v1\nsharing:\n  timeSlicing:\n    resources:\n      - name: nvidia.com/gpu\n        replicas: {sharing}\n"
        found["config"] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata("nvidia-device-plugin", NAMESPACE, labels),
            "data": {"config.yaml": settings},
        }
        arguments.append("--config-file=/etc/device-plugin/config.yaml")
        mounts.append({"name": "config", "mountPath": "/etc/device-plugin", "readOnly": True})
        volumes.append({"name": "config", "configMap": {"name": "nvidia-device-plugin"}})
    container: dict[str, Any] = {
        "name": "device-plugin",
        "image": reference("nvidia_device_plugin"),
        "args": arguments,
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi", "ephemeral-storage": "32Mi"},
            "limits": {"memory": "128Mi", "ephemeral-storage": "32Mi"},
        },
        "securityContext": root_container_security(),
        "volumeMounts": mounts,
    }
    if partitioned:
        container["env"] = [{"name": "NVIDIA_MIG_MONITOR_DEVICES", "value": "all"}]
        container["securityContext"]["capabilities"] = {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
        del container["securityContext"]["allowPrivilegeEscalation"]  # the API server refuses the two together
    for role, name, pods in (
        ("default_deny", "inferstack-default-deny", {}),
        ("network_policy", "nvidia-device-plugin", {"matchLabels": labels}),
    ):
        found[role] = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(name, NAMESPACE, component_labels("network")),
            "spec": {"podSelector": pods, "policyTypes": ["Ingress", "Egress"]},
        }
    found["daemon_set"] = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata("nvidia-device-plugin", NAMESPACE, labels),
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": False,
                    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                    "priorityClassName": "system-node-critical",
                    "affinity": _on_gpu_nodes(),
                    "tolerations": [{"key": GPU_TAINT, "operator": "Exists"}, {"operator": "Exists", "effect": "NoSchedule"}],
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }
    return found


def _on_gpu_nodes() -> dict[str, Any]:
    terms = [{"matchExpressions": [{"key": ACCELERATOR_LABEL, "operator": "Exists"}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
