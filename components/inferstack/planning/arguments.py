"""What an engine image's arguments say, as plan and manifests read them; pure."""

from collections.abc import Iterator, Sequence

from inferstack.planning import catalogue


def memory_shares(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Position, flag and text of every argument that is a share of the GPU's memory; an empty text where none follows."""
    flags: list[str] = catalogue.read("arguments.yaml")["shares"]
    for i, argument in enumerate(arguments):
        flag, joined, value = argument.partition("=")
        if flag in flags:
            yield i, flag, value if joined else arguments[i + 1] if i + 1 < len(arguments) else ""


def share_of(text: str) -> float | None:
    """The share that a text gives, above 0 and at most 1; None for another text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None
