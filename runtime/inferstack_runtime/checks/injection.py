"""A heuristic for prompt injection: phrasings that try to replace the instructions of a system prompt, or to get at it.

It finds the common forms and no others; a determined writer gets past it. Patterns and the texts they are tested on stand in
`injection.json`.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from importlib.resources import files

from inferstack_runtime.checks.base import Finding, windows

_PATTERNS = tuple(
    (entry["kind"], re.compile(entry["pattern"], re.IGNORECASE))
    for entry in json.loads((files(__package__) / "injection.json").read_text())["patterns"]
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")


class InjectionCheck:
    """Finds attempts to override, to reveal, to impersonate a role, to smuggle template markers."""

    name = "injection"

    def look(self, text: str) -> Sequence[Finding]:
        plain = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
        pieces = list(windows(re.sub(r"\s+", " ", plain)))
        return [Finding(kind) for kind in sorted({kind for kind, pattern in _PATTERNS if any(map(pattern.search, pieces))})]
