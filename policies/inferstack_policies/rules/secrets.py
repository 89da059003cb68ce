"""Secrets are files from a secret store: not environment variables, not ConfigMaps, not text."""

import base64
import re
from collections.abc import Iterator
from typing import Any

from inferstack_policies.model import Context, Resource, Rule
from inferstack_policies.shapes import WORKLOADS, at, containers, mapping, sequence

_NAME = re.compile(r"(^|[_\-.]|pg|db)(password|passwd|secret|token|(api|private|access|account)[_-]?key|credentials?)$", re.IGNORECASE)
_VALUE = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
    r"|\b(?:A[KS]IA[0-9A-Z]{16}\b"
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{20}"
    r"|hf_[A-Za-z0-9]{30}"
    r"|(?:sk-|glpat-)[A-Za-z0-9_-]{20}"
    r"|AIza[A-Za-z0-9_-]{30}"
    r"|xox[abprs]-[A-Za-z0-9-]{10}"
    r"|(?<!-)eyJ[\w-]{10,}\.eyJ[\w-]{10}"
    r"|AccountKey=[A-Za-z0-9+/=]{20})"
    r"|(?<=[a-z0-9+.-])://[^/\s:@]*:[^/\s@]+@"
)
"""Nothing here looks at a text more than once for each place: what is judged may be anybody's, and large."""


def from_secret(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        for i, variable in enumerate(sequence(container.get("env"))):
            if at(variable, "valueFrom", "secretKeyRef") is not None:
                yield (
                    f"{where}.env[{i}]",
                    f"{mapping(variable).get('name')} is a secret in the environment, which children and crash dumps see.",
                )
        for i, source in enumerate(sequence(container.get("envFrom"))):
            if mapping(source).get("secretRef") is not None:
                yield f"{where}.envFrom[{i}]", "a whole Secret is put into the environment."


def plain(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        for i, variable in enumerate(sequence(container.get("env"))):
            name, value = str(mapping(variable).get("name", "")), str(mapping(variable).get("value", ""))
            if value and ((_NAME.search(name) and not value.isdecimal()) or _VALUE.search(value)):
                yield f"{where}.env[{i}]", f"{name} holds a secret in plain text."
        for key in ("args", "command"):
            for i, text in enumerate(sequence(container.get(key))):
                if _VALUE.search(str(text)):
                    yield f"{where}.{key}[{i}]", "the command line holds a secret, which every process of the node can read."


def in_config_map(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for section in ("data", "binaryData"):
        for key, value in mapping(r.props.get(section)).items():
            if _NAME.search(str(key)) or _VALUE.search(_decoded(value) if section == "binaryData" else str(value)):
                yield f"{section}[{key}]", "a ConfigMap holds what looks like a secret."


def _decoded(value: Any) -> str:
    """The text of base64; what is none, as it stands."""
    try:
        return base64.b64decode(str(value), validate=True).decode(errors="replace")
    except ValueError:
        return str(value)


def literal(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for section in ("data", "stringData"):
        for key, value in mapping(r.props.get(section)).items():
            if str(value) != "[secret]":
                yield f"{section}[{key}]", "the secret's value stands in the program and in plain state."


RULES = (
    Rule(
        "secret-in-environment",
        "error",
        "Environments leak into children, logs and crash dumps.",
        "Mount the secret as a file.",
        ("CKV_K8S_35",),
        WORKLOADS,
        from_secret,
    ),
    Rule(
        "secret-in-plain-text",
        "error",
        "Whoever reads the manifest has the secret.",
        "Keep it in a secret store and mount it as a file.",
        ("KSV0109",),
        WORKLOADS,
        plain,
    ),
    Rule(
        "secret-in-config-map",
        "error",
        "ConfigMaps are neither encrypted nor guarded like Secrets.",
        "Move it to a secret store.",
        ("KSV0109",),
        frozenset({"ConfigMap"}),
        in_config_map,
    ),
    Rule(
        "secret-literal",
        "error",
        "A value in the program is in version control and in state.",
        "Use External Secrets or the CSI driver, or a Pulumi secret.",
        ("CKV_K8S_35",),
        frozenset({"Secret"}),
        literal,
    ),
)
