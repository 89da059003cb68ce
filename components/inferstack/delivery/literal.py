"""Text from outside, made safe to stand in a Markdown comment.

A branch name, a resource name or a finding may hold anything that its author typed: Markdown, HTML, a mention, a link.
`literal` shows such text as it is and lets none of it act. Inside ``<code>`` every character that could mean something
is a numeric entity, which Markdown never reads as markup; mentions and references are not resolved inside code.
"""

import unicodedata

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 /,=()-")


def literal(value: object, limit: int = 160) -> str:
    """`value` as inert inline code; line ends become spaces, invisible characters U+FFFD, and more than `limit` characters are cut."""
    text = " ".join(str(value).split())
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return f"<code>{''.join(map(_inert, text)) or '(empty)'}</code>"


def _inert(character: str) -> str:
    if character in _PLAIN:
        return character
    if unicodedata.category(character)[0] == "C":  # controls, bidirectional overrides, zero-width and unassigned characters
        return "&#65533;"
    return f"&#{ord(character)};"
