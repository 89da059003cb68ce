"""Objects by which pods reach what a cloud stores: the cache's address, and a blob container of weights; pure, values may be outputs."""

from typing import Any

from inferstack.cluster.names import CACHE, component_labels, metadata

_WEIGHTS = "inferstack-weights"


AUTHORITY_ENTRY = "ca.crt"


def cache_secret_object(namespace: str, url: Any, authority: Any = None) -> dict[str, Any]:
    """The Secret that holds the address of a managed cache under `url`, and its own authority, where it has one, under `ca.crt`."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(CACHE, namespace, component_labels("cache")),
        "type": "Opaque",
        "stringData": {"url": url} | ({AUTHORITY_ENTRY: authority} if authority is not None else {}),
    }


def weights_objects(namespace: str, account: Any, container: Any, resource_group: Any, client_id: Any) -> dict[str, dict[str, Any]]:
    """A read-only volume over a blob container (AKS) and the claim that pods mount, by role: volume, claim.

    It is mounted with the token of the pod's service account, federated with the identity `client_id`: the account has no keys, and the
    nodes' identity no right to it. The account has a hierarchical namespace, which the driver must be told. Sources: blob-csi-driver
    docs/workload-identity-static-pv-mount.md and docs/driver-parameters.md. The size is a formality of the API; a container has none.
    """
    labels, size = component_labels("weights"), "1Pi"
    attributes = {
        "storageAccount": account,
        "containerName": container,
        "resourceGroup": resource_group,
        "protocol": "fuse2",
        "clientID": client_id,
        "mountWithWorkloadIdentityToken": "true",
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata(f"{_WEIGHTS}-{namespace}", None, labels),
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "mountOptions": ["-o allow_other", "-o ro", "--use-adls=true", "--file-cache-timeout-in-seconds=3600", "--use-attr-cache=true"],
            "csi": {
                "driver": "blob.csi.azure.com",
                "readOnly": True,
                "volumeHandle": f"{_WEIGHTS}-{namespace}",
                "volumeAttributes": attributes,
            },
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(_WEIGHTS, namespace, labels),
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": f"{_WEIGHTS}-{namespace}",
            "resources": {"requests": {"storage": size}},
        },
    }
    return {"volume": volume, "claim": claim}
