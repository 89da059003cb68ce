"""Container images made from files alone: OCI archives that `ctr images import` reads. No builder, no registry."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """What an image starts with. ``user`` is `UID:GID`; ``layers`` are uncompressed tar files, lowest first."""

    reference: str
    layers: Sequence[Path]
    entrypoint: Sequence[str]
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "65532:65532"
    labels: Mapping[str, str] = field(default_factory=dict)


def layer(target: Path, add: Callable[[tarfile.TarFile], None]) -> Path:
    """Write one layer; ``add`` puts its members in. Owners, times and order are fixed, so that equal files give equal digests."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar)
    return target


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Filter for ``TarFile.add``: the same owner and time everywhere."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


def write(image: Image, target: Path, architecture: str) -> str:
    """Write ``image`` as an OCI archive and return the digest of its manifest (`sha256:…`)."""
    blobs: dict[str, bytes | Path] = {}
    layers = []
    for path in image.layers:
        digest = _digest_of_file(path)
        blobs[digest] = path
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": path.stat().st_size})
    settings = {
        "User": image.user,
        "Env": [f"{k}={v}" for k, v in image.environment.items()],
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.command),
        "WorkingDir": "/",
        "Labels": dict(image.labels),
    }
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
    }
    described = _json_blob(blobs, config, "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": described, "layers": layers}
    top = _json_blob(blobs, manifest, "application/vnd.oci.image.manifest.v1+json")
    named = top | {
        "annotations": {
            "io.containerd.image.name": image.reference,
            "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
        }
    }
    unfinished = target.with_name(target.name + ".part")
    with tarfile.open(unfinished, "w") as tar:
        _add_bytes(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add_bytes(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [named]}).encode())
        for digest, content in blobs.items():
            name = f"blobs/{digest.replace(':', '/')}"
            if isinstance(content, Path):
                tar.add(content, name, filter=anonymous)
            else:
                _add_bytes(tar, name, content)
    unfinished.rename(target)
    return str(top["digest"])


def pause(program: Path, target: Path, architecture: str) -> None:
    """The image that holds a pod's namespaces."""

    def add(tar: tarfile.TarFile) -> None:
        tar.add(program, "pause", filter=anonymous)

    one = layer(target.with_suffix(".layer"), add)
    try:
        write(Image("localhost/pause:1", [one], ["/pause"]), target, architecture)
    finally:
        one.unlink()


def _json_blob(blobs: dict[str, bytes | Path], content: Any, media_type: str) -> dict[str, Any]:
    data = json.dumps(content, sort_keys=True).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blobs[digest] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
