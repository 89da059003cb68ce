"""An AKS cluster with a T4 pool, the device plugin, and llama.cpp's server behind the same blue-green slots."""

import pulumi
import pulumi_kubernetes as k8s

from inferstack import AksCluster, AksGpuPool, GpuDevicePlugin, InferenceService

region = pulumi.Config().require("region")

cluster = AksCluster("llm", {"region": region, "system_machine_type": "Standard_D4s_v5"})
pool = AksGpuPool(
    "t4",
    {
        "resource_group": cluster.resource_group,
        "cluster": cluster.name,
        "subnet": cluster.subnet,
        "accelerator": "nvidia-tesla-t4",
        "machine_type": "Standard_NC4as_T4_v3",
        "max_nodes": 2,
    },
)
kubernetes = k8s.Provider(
    "kubernetes",
    kubeconfig=cluster.kubeconfig,
    cluster_identifier=cluster.identifier,
    enable_config_map_mutable=True,
    opts=pulumi.ResourceOptions(depends_on=[pool]),
)
inside = pulumi.ResourceOptions(provider=kubernetes)
plugin = GpuDevicePlugin("gpu", {}, inside)
service = InferenceService(
    "small",
    {
        "settings": {
            "platform": "aks",
            "region": region,
            "namespace": "small",
            "models": [{"name": "qwen2.5-1.5b-instruct", "source": "hf://Qwen/Qwen2.5-1.5B-Instruct-GGUF", "context": 4096}],
            "engine": {"kind": "llamacpp", "image": "registry.example/llama.cpp-server@sha256:" + "0" * 64, "max_sequences": 8},
            "gpu": {"accelerator": "nvidia-tesla-t4", "max_nodes": 2},
            "slots": {"replicas": {"min": 1, "max": 1}, "resources": {"cpu": "3", "memory": "16Gi"}},
            "scaling": {"policy": "queue"},
            "cache": {"size": "1Gi"},
        }
    },
    pulumi.ResourceOptions(provider=kubernetes, depends_on=[plugin]),
)

pulumi.export("kubeconfig", cluster.kubeconfig)
pulumi.export("services", service.services)
