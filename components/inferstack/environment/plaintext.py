"""Secrets that stand in an environment in plain text: found, and never shown again."""

import re
from collections.abc import Iterator
from typing import Any

from inferstack.environment.problems import MISSING, Problem

_FORMS = {
    "a private key or certificate": r"-----BEGIN [A-Z ]+-----",
    "a password in an address": r"://[^/@\s]*:[^/@\s]+@|^[^/@\s:]+:[^/@\s]+@[^/@\s]+/",
    "an API key": r"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|AIza[A-Za-z0-9_-]{30,}|AKIA[A-Z0-9]{16}|glpat-[A-Za-z0-9_-]{16,})",
    "a token": r"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.)",
    "a webhook's address": r"hooks\.slack\.com/services/|discord(app)?\.com/api/webhooks/",
    "an account key": r"\bAccountKey=[A-Za-z0-9+/=]{20,}",
}
_NAMED = re.compile(r"(^|_)(password|passwd|token|secret|credentials?|api_?keys?|access_?keys?|private_?keys?|account_?keys?)$")
_EXPECTED = "no secret in this file: put it into a Secret of the cluster (or the secret store) and give that one's name"


def take_secrets(data: Any, known: frozenset[str]) -> Iterator[Problem]:
    """Take every secret out of `data` (nested mappings and lists), so that no message can show it; a problem for each.

    A secret is text of a known form, Pulumi's `{secure: …}`, or text under a key that is called so and is none of `known`.
    """
    yield from _search(data, "", known)


def _search(data: Any, path: str, known: frozenset[str]) -> Iterator[Problem]:
    items = list(data.items()) if isinstance(data, dict) else list(enumerate(data)) if isinstance(data, list) else []
    for key, value in items:
        where = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}" if path else str(key)
        named = key not in known and isinstance(value, str) and _NAMED.search(str(key).lower())
        found = _what(value) or ("a secret" if known and named else None)
        if found:
            yield Problem(where, MISSING, f"{_EXPECTED} (this is {found})")
            if isinstance(data, list):
                data[key] = ""  # the others keep their positions
            else:
                del data[key]
        else:
            yield from _search(value, where, frozenset() if key == "config" else known)  # a model's tokens are no secrets


def _what(value: Any) -> str | None:
    """What kind of secret the value is."""
    if isinstance(value, dict) and set(value) == {"secure"}:
        return "a secret of Pulumi's, which an environment cannot hold"
    return next((kind for kind, form in _FORMS.items() if isinstance(value, str) and re.search(form, value)), None)
