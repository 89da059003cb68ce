"""The bill of materials says what is in an image archive, after all its layers."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from inferstack.delivery.plans import BadInput
from inferstack.delivery.sbom import bill_of_materials


def layer(files: dict[str, str], form: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=form) as archive:  # type: ignore[call-overload]
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def image(path: Path, *layers: bytes) -> Path:
    config = json.dumps({"created": "2026-01-02T03:04:05.678Z", "config": {}}).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["runtime:1"], "Layers": [f"{i}/layer.tar" for i in range(len(layers))]}]
    members = {"manifest.json": json.dumps(manifest).encode(), "config.json": config} | {
        f"{i}/layer.tar": data for i, data in enumerate(layers)
    }
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def deb(name: str, version: str = "1.0-1", status: str = "") -> str:
    return f"Package: {name}\n{status}Version: {version}\nArchitecture: amd64\nDescription: x\n y\n"


def wheel(name: str, version: str) -> str:
    return f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n\nPackage: not-a-package\nVersion: 9\n"


SITE = "opt/app/lib/python3.13/site-packages"


def purls(archive: Path) -> list[str]:
    return sorted(component["purl"] for component in json.loads(bill_of_materials(archive))["components"])


def test_packages_of_debian_and_python_with_their_versions(tmp_path: Path) -> None:
    files = {
        "usr/lib/os-release": 'ID=debian\nVERSION_ID="13"\n',
        "./var/lib/dpkg/status.d/libc6": deb("libc6", "2.41-12+deb13u4"),
        f"{SITE}/Foo_Bar-2.0.dist-info/METADATA": wheel("Foo_Bar", "2.0"),
        f"{SITE}/foo_bar/METADATA": wheel("inner", "1"),
    }
    archive = image(tmp_path / "a.tar", layer(files))
    assert purls(archive) == ["pkg:deb/debian/libc6@2.41-12%2Bdeb13u4?arch=amd64&distro=debian-13", "pkg:pypi/foo-bar@2.0"]


def test_a_package_database_counts_only_what_is_installed(tmp_path: Path) -> None:
    status = "\n".join([deb("kept", status="Status: install ok installed\n"), deb("removed", status="Status: deinstall ok config-files\n")])
    assert purls(image(tmp_path / "a.tar", layer({"var/lib/dpkg/status": status}))) == [
        "pkg:deb/debian/kept@1.0-1?arch=amd64&distro=debian"
    ]


def test_later_layers_replace_and_delete(tmp_path: Path) -> None:
    first = layer(
        {f"var/lib/dpkg/status.d/{name}": deb(name) for name in ("a", "b")} | {f"{SITE}/c-1.dist-info/METADATA": wheel("c", "1")}, "w:gz"
    )
    second = layer({"var/lib/dpkg/status.d/a": deb("a", "2.0-1"), "var/lib/dpkg/status.d/.wh.b": "", "opt/app/.wh.lib": ""})
    assert purls(image(tmp_path / "a.tar", first, second)) == ["pkg:deb/debian/a@2.0-1?arch=amd64&distro=debian"]


def test_an_opaque_folder_hides_what_was_below(tmp_path: Path) -> None:
    first = layer({"var/lib/dpkg/status.d/a": deb("a")})
    second = layer({"var/lib/dpkg/status.d/b": deb("b"), "var/lib/dpkg/status.d/.wh..wh..opq": ""})
    assert purls(image(tmp_path / "a.tar", first, second)) == ["pkg:deb/debian/b@1.0-1?arch=amd64&distro=debian"]


def test_the_same_image_gives_the_same_text(tmp_path: Path) -> None:
    archive = image(tmp_path / "a.tar", layer({"var/lib/dpkg/status.d/a": deb("a")}))
    assert bill_of_materials(archive) == bill_of_materials(archive)


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("no archive")
    with tarfile.open(tmp_path / "b.tar", "w"):
        pass
    for name in ("a.tar", "b.tar"):
        with pytest.raises(BadInput, match=name):
            bill_of_materials(tmp_path / name)
