"""Where images and weights come from, and what an engine image is told beside its settings."""

import re
from collections.abc import Iterator

from inferstack.environment import ENGINE_IMAGES, Environment, Model, Platform
from inferstack.planning import catalogue
from inferstack.planning.arguments import memory_shares, share_of
from inferstack.planning.findings import Finding
from inferstack.planning.sources import hub_source

_NAME = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(\.[a-z0-9-]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
"""Registry and repository of an image reference, as the OCI distribution specification has them (registry names in lower case)."""
_DIGEST = "REPOSITORY@sha256:DIGEST (`crane digest` or the build's output)"


def image(e: Environment) -> Iterator[Finding]:
    """The image is a reference by digest, but for one that was built on this machine and is in no registry."""
    text, path = e.engine.image or "", "engine.image"
    repository, _, digest = text.partition("@")
    name, _, tag = repository.rpartition(":") if ":" in repository.rpartition("/")[2] else (repository, "", "")
    if not text or (text.startswith("localhost/") and not e.production):
        return
    if not _NAME.fullmatch(name) or (tag and not re.fullmatch(r"\w[\w.-]{0,127}", tag)):
        meant = name.rpartition("://")[2].rpartition("@")[2].lower()
        fix = f"use `{meant}`." if meant != name and _NAME.fullmatch(meant) else f"use {_DIGEST}."
        yield Finding("image-invalid", "error", path, f"`{name}` is no repository of images.", fix)
    elif not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        cut = "a digest of 64 hexadecimal digits is missing" if digest else "a tag, which can move under a running slot"
        yield Finding("image-digest", "error", path, f"`{text}`: {cut}.", f"use {_DIGEST}.")


_MOUNTED = {Platform.GKE: "gs", Platform.AKS: "abfss"}
"""Object storage that the slots of each platform mount."""


def sources(e: Environment) -> Iterator[Finding]:
    """An engine image finds its model: it reads what is mounted, in its image or in a hub; this kit's engines fetch from anywhere."""
    if e.engine.kind not in ENGINE_IMAGES or e.engine.kind == "openai":
        return
    mounted = _MOUNTED.get(e.platform)
    buckets: dict[str, int] = {}
    for i, model in enumerate(e.models):
        scheme, _, rest = model.source.partition("://")
        if scheme == "hf":
            yield from _of_hub(e, i, model)
        if scheme in ("hf", "file"):
            continue
        if scheme != mounted:
            what = "is a package of this kit's image" if scheme == "package" else f"is not mounted on {e.platform}"
            ways = [*([f"{mounted}://"] if mounted else []), "hf://", "file:// (in the image)"]
            message = f"`{model.source}` {what}, and an engine image of kind {e.engine.kind} does not fetch it."
            yield Finding("source-unreachable", "error", f"models[{i}].source", message, f"use {' or '.join(ways)}, or engine.kind native.")
            continue
        container, _, account = rest.partition("/")[0].partition("@")
        if account:
            message = f"`{account}` is another storage account, and the one that this environment makes is mounted."
            fix = f"copy the model there, and use abfss://{container}/{rest.partition('/')[2]}."
            yield Finding("source-other-account", "error", f"models[{i}].source", message, fix)
            continue
        first = buckets.setdefault(rest.partition("/")[0], i)
        if len(buckets) > 1 and first == i:
            message = f"`{rest.partition('/')[0]}` is a second bucket, and one is mounted: `{next(iter(buckets))}`."
            yield Finding("source-second-bucket", "error", f"models[{i}].source", message, f"copy the model to `{next(iter(buckets))}`.")


def _of_hub(e: Environment, i: int, model: Model) -> Iterator[Finding]:
    """vLLM and SGLang load a repository at any revision; llama.cpp loads one file, the newest (its `--hf-repo` and `--hf-file`)."""
    hub, path = hub_source(model.source), f"models[{i}].source"
    if hub and hub.revision and e.engine.kind == "llamacpp":
        message = f"llamacpp fetches the newest revision of `{hub.repository}`, and `{hub.revision}` is asked for."
        yield Finding("source-unreachable", "error", path, message, f"leave @{hub.revision} out, or put the file in a bucket or the image.")
    if hub and hub.file and e.engine.kind != "llamacpp":
        message = f"{e.engine.kind} loads `{hub.repository}` as a whole, not one file of it."
        yield Finding("source-unreachable", "error", path, message, f"leave /{hub.file} out, or use engine.kind llamacpp or native.")


def arguments(e: Environment) -> Iterator[Finding]:
    """What a setting says, an argument does not say again: the later one would win, and the plan would be of another engine."""
    owned: dict[str, str] = catalogue.read("arguments.yaml")["engines"].get(e.engine.kind, {})
    for i, argument in enumerate(e.engine.arguments):
        flag = argument.partition("=")[0]
        if flag in owned:
            message = f"`{flag}` is given to {e.engine.kind} by the kit, from {owned[flag]}."
            yield Finding("argument-owned", "error", f"engine.arguments[{i}]", message, f"set {owned[flag]}, and leave the argument out.")


def shares(e: Environment) -> Iterator[Finding]:
    """A share of the GPU's memory is one; else the engine ends as it starts, after the node was bought."""
    clients = e.gpu.sharing if e.gpu and e.gpu.sharing else 1
    for i, flag, text in memory_shares(e.engine.arguments):
        share, path = share_of(text), f"engine.arguments[{i}]"
        if share is None:
            message = f"`{flag}` is a share of the GPU's memory, and it is {text or 'nothing'}."
            yield Finding("argument-share", "error", path, message, f"give {flag} a number above 0 and at most 1.")
        elif share * clients > 1:
            message = f"{clients} clients share a GPU, and each would take {share:g} of its memory."
            yield Finding("argument-share", "error", path, message, f"give {flag} at most {1 / clients:.3g}, or leave it out.")


CHECKS = (image, sources, arguments, shares)
