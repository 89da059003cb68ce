"""Images and models are what was built and checked."""

import json
import re
from collections.abc import Iterator

from inferstack_policies.model import Context, Resource, Rule
from inferstack_policies.shapes import WORKLOADS, containers, images, mapping, sequence

_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_BY_DIGEST = re.compile(rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*(?::[\w][\w.-]{{0,127}})?@sha256:[0-9a-f]{{64}}", re.ASCII)
"""[HOST[:PORT]/]PATH[:TAG]@DIGEST, as registries spell it: https://github.com/distribution/reference."""
CONFIG_KEYS = ("runtime.json",)


def digest(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    """An image of this machine (`localhost/…`), which is in no registry, may have a tag outside production."""
    for where, image in images(r):
        if image.startswith("localhost/") and not context.production:
            continue
        if not _BY_DIGEST.fullmatch(image):
            yield where, f"`{image}` is not named by its digest: what runs can change under the same name."


def registry(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    folders = tuple(f"{name.rstrip('/')}/" for name in context.registries)
    for where, image in images(r) if folders else ():
        if not full_name(image).startswith(folders):
            yield where, f"`{image}` comes from none of {', '.join(context.registries)}."


def full_name(image: str) -> str:
    """The reference with its registry: a name without one is Docker Hub's, and there a single word is the library's."""
    first, slash, _ = image.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return image
    return f"docker.io/{'' if slash else 'library/'}{image}"


def verified(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    for where, image in images(r) if context.verified_images is not None else ():
        if context.verified_images is not None and image not in context.verified_images:
            yield where, f"`{image}`: signature and bill of materials were not verified."


def model_hash(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    """The runtime's configuration names every model by the hash of its weights."""
    data = mapping(r.props.get("data"))
    for key in CONFIG_KEYS if context.production else ():
        try:
            config = json.loads(data[key])
        except (KeyError, TypeError, ValueError):
            continue
        for i, model in enumerate(sequence(mapping(config).get("models"))):
            if not str(mapping(model).get("digest") or "").startswith("sha256:"):
                yield f"data[{key}].models[{i}].digest", f"`{mapping(model).get('name')}` has no digest: other weights could be served."


def pull_policy(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for where, container, _spec in containers(r):
        if container.get("imagePullPolicy") == "Never":
            yield f"{where}.imagePullPolicy", "the node's copy is used, whoever put it there."


RULES = (
    Rule(
        "image-digest",
        "error",
        "A tag can be moved after it was scanned.",
        "Use REPOSITORY@sha256:DIGEST.",
        ("KSV-0013", "CKV_K8S_14", "CKV_K8S_43", "kube-score:container-image-tag"),
        WORKLOADS,
        digest,
    ),
    Rule(
        "image-registry",
        "error",
        "Other registries are not scanned or mirrored.",
        "Mirror the image to an allowed registry.",
        ("KSV-0125",),
        WORKLOADS,
        registry,
    ),
    Rule(
        "image-verified",
        "error",
        "An image without a verified signature may come from anybody.",
        "Sign it in the pipeline and run scripts/verify before the deploy.",
        (),
        WORKLOADS,
        verified,
    ),
    Rule(
        "image-pull-policy",
        "error",
        "A copy on a node escapes registry checks.",
        "Leave imagePullPolicy out, or use IfNotPresent.",
        ("CKV_K8S_15",),
        WORKLOADS,
        pull_policy,
    ),
    Rule(
        "model-hash",
        "error",
        "Weights are code: they decide what is answered.",
        "Set models[].digest to the sha256 of the weights file.",
        (),
        frozenset({"ConfigMap"}),
        model_hash,
    ),
)
