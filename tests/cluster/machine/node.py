"""Configuration of the one node with real pods: containerd, network, kubelet, kube-proxy, DNS."""

import json
from pathlib import Path

import yaml

from machine import enclosure
from machine.layout import NODE_ADDRESS, Machine

POD_NETWORK = "10.244.0.0/24"
PAUSE_IMAGE = "localhost/pause:1"
OPEN_FILES = 20_000


def configure(m: Machine) -> None:
    """Write every file that the node's programs read."""
    for folder in ("cni", "kubelet"):
        (m.folder / folder).mkdir(exist_ok=True)
    (m.folder / "resolv.conf").write_text(f"nameserver {NODE_ADDRESS}\n")
    (m.folder / "containerd.toml").write_text(_containerd(m))
    (m.folder / "cni" / "10-pods.conflist").write_text(json.dumps(_network(m)))
    (m.folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(m)))
    (m.folder / "proxy.yaml").write_text(yaml.safe_dump(_proxy(m)))
    (m.folder / "Corefile").write_text(_corefile(m))
    enclosure.make_cgroups(m.cgroup)


def _containerd(m: Machine) -> str:
    """The format of version 2, which containerd 1.6 to 2 read."""
    return f"""version = 2
root = "{m.folder}/containerd"
state = "/run/containerd-state"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{m.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{_snapshotter(m.folder)}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{m.folder}/cni"
"""


def _snapshotter(folder: Path) -> str:
    """An overlay cannot lie on an overlay, as it would inside of most containers; there layers are copied instead."""
    best = ""
    kind = ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount_point, file_system = line.split()[:3]
        if folder.is_relative_to(mount_point) and len(mount_point) >= len(best):
            best, kind = mount_point, file_system
    return "native" if kind == "overlay" else "overlayfs"


def _network(m: Machine) -> object:
    """Every pod has a wire to the node, which routes: kube-proxy's rules see all traffic without bridge filtering."""
    ranges = [[{"subnet": POD_NETWORK}]]
    ipam = {"type": "host-local", "dataDir": f"{m.folder}/cni-ipam", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": ipam}]}


def _kubelet(m: Machine) -> object:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{m.containerd_socket}",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{m.cgroup}",
        "featureGates": {"KubeletInUserNamespace": True},  # takes a refused sysctl or limit for a warning
        "failSwapOn": False,
        "maxOpenFiles": OPEN_FILES,
        "address": NODE_ADDRESS,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": f"{m.pki}/ca.crt"}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{m.pki}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{m.pki}/kubelet-server.key",
        "clusterDomain": "cluster.local",
        "clusterDNS": [NODE_ADDRESS],
        "resolvConf": f"{m.folder}/resolv.conf",
        "podLogsDir": f"{m.folder}/pods-log",
        "serializeImagePulls": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.inodesFree": "1%",
        },
    }


def _proxy(m: Machine) -> object:
    untouched = {
        "maxPerCore": 0,
        "min": 0,
        "tcpEstablishedTimeout": "0s",
        "tcpCloseWaitTimeout": "0s",
        "udpTimeout": "0s",
        "udpStreamTimeout": "0s",
    }
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "bindAddress": NODE_ADDRESS,
        "hostnameOverride": "node1",
        "clusterCIDR": POD_NETWORK,
        "clientConnection": {"kubeconfig": f"{m.pki}/proxy.kubeconfig"},
        "conntrack": untouched,  # these limits are the whole kernel's
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    }


def _corefile(m: Machine) -> str:
    return f""".:53 {{
  bind {NODE_ADDRESS}
  errors
  ready {NODE_ADDRESS}:8181
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {m.pki}/admin.kubeconfig
    pods insecure
    ttl 5
  }}
  cache 5
}}
"""
