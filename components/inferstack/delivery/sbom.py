"""The bill of materials of an image: every Debian package and every Python distribution that is in it, as CycloneDX 1.6.

It is read from the image itself (an archive as `docker save` writes it), not from what was meant to be in it: layers are
applied in order, deletions included. Packages without a database, as a rootfs has them, stand in `var/lib/dpkg/status.d`.
"""

import json
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from inferstack.delivery.plans import BadInput


def image_files(archive: Path) -> tuple[str, Mapping[str, Any], dict[str, str]]:
    """(name, configuration, text by path) of the package records in an image archive. Raises BadInput."""
    files: dict[str, str] = {}
    try:
        with tarfile.open(archive) as outer:
            manifest = json.loads(_read(outer, "manifest.json"))[0]
            config = json.loads(_read(outer, manifest["Config"]))
            for layer in manifest["Layers"]:
                with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                    _apply(inner, files)
    except (tarfile.TarError, KeyError, IndexError, ValueError) as error:
        raise BadInput(f"{archive}: expected an image archive as `docker save` writes it ({error})") from None
    return next(iter(manifest.get("RepoTags") or []), archive.stem), config, files


def bill_of_materials(archive: Path) -> str:
    """CycloneDX JSON of the image in `archive`; the same archive gives the same text. Raises BadInput."""
    name, config, files = image_files(archive)
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(config, sort_keys=True)))
    created = str(config.get("created") or "1970-01-01T00:00:00Z").replace("Z", "+00:00")
    bom.metadata.timestamp = datetime.fromisoformat(created[:19]).replace(tzinfo=UTC)
    bom.metadata.component = Component(name=name, type=ComponentType.CONTAINER, bom_ref="image")
    release = _release(files.get("usr/lib/os-release") or files.get("etc/os-release") or "")
    for package in packages(files):
        bom.components.add(_component(package, release))
    bom.register_dependency(bom.metadata.component, bom.components)
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"


def packages(files: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """(kind, name, version, architecture) of every package on record; `kind` is `deb` or `pypi`."""
    found = set()
    for path, text in files.items():
        for record in _records(path, text):
            if path.endswith(".dist-info/METADATA"):
                found.add(("pypi", record["Name"], record["Version"], ""))
            elif record.get("Status", "install ok installed").endswith(" installed") and "Package" in record:
                found.add(("deb", record["Package"], record["Version"], record["Architecture"]))
    return sorted(found)


def _component(package: tuple[str, str, str, str], release: Mapping[str, str]) -> Component:
    kind, name, version, architecture = package
    if kind == "deb":
        distro = f"{release.get('ID', 'debian')}-{release.get('VERSION_ID', '')}".rstrip("-")
        url = PackageURL("deb", release.get("ID", "debian"), name, version, {"arch": architecture, "distro": distro})
    else:
        url = PackageURL("pypi", None, name.lower().replace("_", "-"), version)
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=str(url))


def _records(path: str, text: str) -> Iterator[Message]:
    parts = text.split("\n\n") if path == "var/lib/dpkg/status" else [text]
    return (Parser().parsestr(part, headersonly=True) for part in parts if part.strip())


def _release(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key: value.strip('"') for key, value in pairs}


def _wanted(path: str) -> bool:
    return path.startswith("var/lib/dpkg/status") or path.endswith((".dist-info/METADATA", "/os-release"))


def _apply(layer: tarfile.TarFile, files: dict[str, str]) -> None:
    below = set(files)  # a layer deletes only what is below it
    for member in layer:
        path = PurePosixPath(member.name.lstrip("./"))
        if path.name.startswith(".wh."):
            gone = str(path.parent) if path.name == ".wh..wh..opq" else str(path.parent / path.name.removeprefix(".wh."))
            for known in [known for known in below if known == gone or known.startswith(f"{gone}/")]:
                below.discard(known)
                files.pop(known, None)
        elif member.isfile() and _wanted(str(path)):
            content = layer.extractfile(member)
            below.discard(str(path))
            files[str(path)] = content.read().decode("utf-8", "replace") if content else ""


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()
