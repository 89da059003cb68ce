"""A GKE cluster with an L4 pool, and vLLM behind the same blue-green slots, in a platform team's own program."""

import pulumi
import pulumi_kubernetes as k8s

from inferstack import GkeCluster, GkeGpuPool, InferenceService

config = pulumi.Config()
project, region = config.require("project"), config.require("region")

cluster = GkeCluster("llm", {"project": project, "region": region, "system_machine_type": "e2-standard-4"})
pool = GkeGpuPool(
    "l4",
    {
        "project": project,
        "region": region,
        "cluster": cluster.name,
        "node_service_account": cluster.node_service_account,
        "accelerator": "nvidia-l4",
        "machine_type": "g2-standard-8",
        "capacity": "spot",
        "on_demand_floor": 1,
        "max_nodes": 3,
    },
)
kubernetes = k8s.Provider(
    "kubernetes",
    kubeconfig=cluster.kubeconfig,
    cluster_identifier=cluster.identifier,
    enable_config_map_mutable=True,
    opts=pulumi.ResourceOptions(depends_on=[pool]),
)
service = InferenceService(
    "llama",
    {
        "settings": {
            "platform": "gke",
            "region": region,
            "cloud": {"project": project},
            "namespace": "llama",
            "models": [
                {"name": "qwen2.5-7b-instruct", "source": "hf://Qwen/Qwen2.5-7B-Instruct-AWQ", "quantization": "awq", "context": 8192}
            ],
            "engine": {
                "kind": "vllm",
                "image": "docker.io/vllm/vllm-openai@sha256:014a95f21c9edf6abe0aea6b07353f96baa4ec291c427bb1176dc7c93a85845c",
            },
            "gpu": {"accelerator": "nvidia-l4", "capacity": "spot", "on_demand_floor": 1, "max_nodes": 3},
            "slots": {"replicas": {"min": 1, "max": 2}, "resources": {"cpu": "6", "memory": "24Gi", "ephemeral_storage": "40Gi"}},
            "scaling": {"policy": "queue"},
            "drain": {"pre_stop_seconds": 3, "seconds": 8, "grace_seconds": 14},
            "cache": {"backend": "none"},
            "monitoring": {"backend": "gmp"},
        }
    },
    pulumi.ResourceOptions(provider=kubernetes),
)

pulumi.export("kubeconfig", pulumi.Output.secret(cluster.kubeconfig))
pulumi.export("services", service.services)
