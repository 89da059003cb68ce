"""Secrets are files from a secret store: not environment variables, not ConfigMaps, not text."""

import base64
import re
from collections.abc import Iterator
from typing import Any

from inferstack_policies.model import Context, Resource, Rule
from inferstack_policies.shapes import WORKLOADS, at, containers, mapping, sequence

_NAME = re.compile(
    r"(^|[_\-.]|pg|db)(password|passwd|passphrase|pwd|secret|token|(api|private|access|account|batch|storage)[_-]?key|credentials?)$|[_\-.]pass$",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(
    r"(password|passwd|passphrase|requirepass|masterauth|(api|access|account|private|secret)[_-]?key|client[_-]?secret"
    r"|(hf|auth|access|bearer|api|github|gitlab|bot|id|refresh|secret)[_-]?token)$|^token$",
    re.IGNORECASE,
)
"""As `_NAME`, where a name may also be that of an object or of a word of the model: `tls-secret`, `eos-token`."""
_OPTION = re.compile(r"(?:^|[\s;&])(?:--?([\w.-]{1,60})(?:=|\s+)|([A-Za-z_]\w{0,60})=)(\S{1,200})")
_LINE = re.compile(r"^[ \t]*(?:- )?[\"']?(?:([\w.-]{1,60})[\"']?[ \t]*[:=]|(requirepass|masterauth)[ \t])[ \t]*(\S{1,200})", re.MULTILINE)
_REFERENCE = re.compile(
    r"\$[({A-Za-z_]|/[a-z0-9._/-]*$|@/|[<{*%\[(&!|>-]|(?:file|env|vault|projects|https?):?/|(?i:true|false|yes|no|null|none|auto|[0-9.]*)$"
)
"""What stands for a secret and is none: a path, a variable, a placeholder, a switch, a number."""
_VALUE = re.compile(
    r"---BEGIN [A-Z ]{0,40}PRIVATE KEY---"
    r"|\b(?:A[KS]IA[0-9A-Z]{16}\b"
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{20}"
    r"|hf_[A-Za-z0-9]{30}"
    r"|(?:sk-|glpat-)[A-Za-z0-9_-]{20}"
    r"|AIza[A-Za-z0-9_-]{30}"
    r"|xox[abprs]-[A-Za-z0-9-]{10}"
    r"|(?<!-)eyJ[\w-]{10,}\.eyJ[\w-]{10}"
    r"|(?:Account|SharedAccess)Key=[A-Za-z0-9+/=]{20}"
    r"|Bearer [A-Za-z0-9._~+/-]{20})"
    r"|;\s?(?:Password|Pwd)\s?=\s?[^;\s$<{]"
    r"|(?<=[a-z0-9+.-])://[^/\s:@]*:[^/\s@]+@"
)
"""Nothing here looks at a text more than once for each place: what is judged may be anybody's, and large."""


def holds_secret(text: str) -> bool:
    """Whether a text has a secret in it that is known by its form: a private key, a token, an address with a password."""
    return bool(_VALUE.search(text))


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
            if (_NAME.search(name) and _is_literal(value)) or holds_secret(value):
                yield f"{where}.env[{i}]", f"{name} holds a secret in plain text."
        line = " ".join(str(text) for key in ("command", "args") for text in sequence(container.get(key)))
        named = (found for found in _OPTION.finditer(line) if _CREDENTIAL.search(found[1] or found[2]))
        if holds_secret(line) or any(_is_literal(found[3]) for found in named):
            yield f"{where}.args", "the command line holds a secret, which every process of the node can read."


def in_config_map(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for section in ("data", "binaryData"):
        for key, value in mapping(r.props.get(section)).items():
            text = _decoded(value) if section == "binaryData" else str(value)
            lines = (found for found in _LINE.finditer(text) if _CREDENTIAL.search(found[1] or found[2]))
            if _NAME.search(str(key)) or holds_secret(text) or any(_is_literal(found[3]) for found in lines):
                yield f"{section}[{key}]", "a ConfigMap holds what looks like a secret."


def _is_literal(value: str) -> bool:
    """Whether a value is a secret itself."""
    return not _REFERENCE.match(value.strip("\"',;"))


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
        (),
        WORKLOADS,
        plain,
    ),
    Rule(
        "secret-in-config-map",
        "error",
        "ConfigMaps are neither encrypted nor guarded like Secrets.",
        "Move it to a secret store.",
        ("KSV-0109", "KSV-01010"),
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
