"""The security contexts of every pod that this kit writes, as the restricted Pod Security Standard asks for them, and the token of the
few that ask the API server; pure."""

from typing import Any

USER = 10001
"""Numeric user and group of the processes, above the range that images and hosts use."""


def pod_security(**more: Any) -> dict[str, Any]:
    """A pod's context: nobody's user, group and files, system calls filtered; `more` is set beside it."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        **more,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """A container's context: no more rights than it was started with, and a root file system that it cannot write."""
    return {**root_container_security(), "runAsNonRoot": True}


def root_container_security() -> dict[str, Any]:
    """The same for the one container that must be root, because the host's folder that it writes belongs to root."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}


TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a folder


def api_token() -> dict[str, Any]:
    """A projected volume with what a client of the API server needs, and a token that expires: only pods that ask it have one."""
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    return {
        "defaultMode": 0o440,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
    }
