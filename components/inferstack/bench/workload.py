"""Standard workloads and their prompts. Prompts are words drawn with a seed, so a run can be repeated and no prompt is ever cached."""

import random
from dataclasses import dataclass

_COMMON = (
    "time year people way day man thing woman life child world school state family student group country problem hand part place case week "
    "company system program question work government number night point home water room mother area money story fact month lot right study "
    "book eye job word business issue side kind head house service friend father power hour game line end member law car city community "
    "name president team minute idea body information back parent face others level office door health person art war history party result "
    "change morning reason research girl guy moment air teacher force education foot boy age policy music market sense nation plan college "
    "interest death experience effect use class control care field development role effort rate heart drug show leader light voice wife "
    "police mind price report decision son view relationship town road arm difference value building action season society tax director"
)
_WORDS = _COMMON.split()


@dataclass(frozen=True)
class Workload:
    """Lengths in tokens; a prompt of `prompt` words has about as many tokens. `shared` words are the same at the start of all prompts."""

    name: str
    prompt: int
    output: int
    shared: int = 0


STANDARD = {
    workload.name: workload
    for workload in (
        Workload("100-64", 100, 64),
        Workload("128-128", 128, 128),
        Workload("128-1024", 128, 1024),
        Workload("1024-128", 1024, 128),
        Workload("shared-512", 64, 64, shared=512),
        Workload("prefill-900", 900, 1),
    )
}
"""`100-64` is the shape of the published peer figures; the others are usual in serving benchmarks."""


def prompts(workload: Workload, count: int, seed: int) -> list[str]:
    """`count` prompts of a workload; the same for the same seed."""
    choose = random.Random(seed)  # noqa: S311 - repeatable load, not a secret
    shared = " ".join(choose.choices(_WORDS, k=workload.shared))
    return [f"{shared} {' '.join(choose.choices(_WORDS, k=workload.prompt))}".strip() for _ in range(count)]
