"""The image, really built from a Debian base on this machine, run like a cluster runs it, and compared with its bill of materials.

Needs root, buildah and mmdebstrap (scripts/image-base installs both on Debian); what is missing is a counted skip.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from inferstack.delivery.plans import BadInput
from inferstack.delivery.sbom import bill_of_materials, image_files
from inferstack.delivery.trial import contained_command, write_trial

ROOT = Path(__file__).parents[2]
LIMIT_MB = 250


def test_an_image_that_would_run_as_root_is_not_run() -> None:
    for user in ("", "0", "root", "10000", "1000:1000"):
        with pytest.raises(BadInput, match="above 10000"):
            contained_command({"User": user, "Entrypoint": ["x"]}, "/image", "/mounted")


def test_an_image_is_run_with_a_root_that_cannot_be_written() -> None:
    command = contained_command({"User": "64000:64000", "Entrypoint": ["a b"], "Volumes": {"/tmp": {}}}, "/im age", "/mounted")
    script = command[-1].splitlines()
    assert script[-2] == "mount -o remount,bind,ro '/im age'"
    assert script[-1].endswith("--userspec=64000:64000 --groups= '/im age' 'a b'")


def test_a_trial_has_a_key_that_only_its_hash_is_kept_of(tmp_path: Path) -> None:
    port, key = write_trial(tmp_path)
    assert port > 0
    assert key not in (tmp_path / "keys.json").read_text()


LAYERED = """FROM scratch AS build
LABEL org.opencontainers.image.title="inferstack-runtime"
COPY first /first
COPY second /second
FROM scratch
LABEL org.opencontainers.image.title="inferstack-runtime"
COPY --from=build /second /second
USER 64000
"""


@pytest.mark.parts
def test_layers_of_earlier_builds_go_and_the_last_ones_are_the_next_builds_cache(tmp_path: Path) -> None:
    """Three builds of a small image in a storage of its own: what is left is what one build makes, and building again makes nothing."""
    if shutil.which("buildah") is None or os.getuid() != 0:
        pytest.skip("needs root and buildah")
    (tmp_path / "Dockerfile").write_text(LAYERED)
    (tmp_path / "first").write_text("the same each time")
    storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    (tmp_path / "storage.conf").write_text(storage)
    environment = os.environ | {"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf"), "XDG_STATE_HOME": str(tmp_path / "state")}

    def buildah(*arguments: str) -> str:
        done = subprocess.run(["buildah", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def build(content: str, tag: str = "localhost/small/one") -> str:
        (tmp_path / "second").write_text(content)
        said = buildah("bud", "--layers", "--format", "docker", "--isolation", "chroot", "--timestamp", "1760000000", "--tag", tag, ".")
        (tmp_path / "log").write_text(said)
        subprocess.run([ROOT / "scripts/image-prune", tag, tmp_path / "log"], env=environment, check=True)
        return said

    build("1")
    one = len(buildah("images", "--all", "--quiet").split())
    for content in ("2", "3"):
        build(content)
    assert len(buildah("images", "--all", "--quiet").split()) == one, "what earlier builds left is gone"
    again = build("3")
    assert again.count("Using cache") == LAYERED.count("COPY") + LAYERED.count("LABEL") + LAYERED.count("USER"), "every step is cached"
    build("4", "localhost/small/other")
    assert "Using cache" in build("3"), "another tag's build leaves this one's cache"
    assert build("3").count("Using cache") == again.count("Using cache")
    buildah("rmi", "localhost/small/other")
    build("3")
    assert len(buildah("images", "--all", "--quiet").split()) == one, "a tag that is gone keeps nothing"


@dataclass(frozen=True)
class Built:
    tag: str
    archive: Path
    said: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    if not os.environ.get("INFERSTACK_LONG"):
        pytest.skip("building the image takes many minutes: INFERSTACK_LONG=1 does it")
    if os.getuid() != 0:
        pytest.skip("building an image here needs root")
    if not (shutil.which("buildah") and shutil.which("mmdebstrap")) and not shutil.which("apt-get"):
        pytest.skip("no buildah, and no apt-get to install it with")
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1760000000"}
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        environment["INFERSTACK_CA"] = "/etc/ssl/certs/ca-certificates.crt"
    base = subprocess.run([ROOT / "scripts/image-base"], capture_output=True, text=True, env=environment)
    if base.returncode:
        pytest.skip(f"no base image here: {base.stderr.strip().splitlines()[-1]}")
    tag, archive = "localhost/inferstack-tested", tmp_path_factory.mktemp("image") / "image.tar"
    command = [ROOT / "scripts/image", "--target", "bundled", "--tag", tag, "--archive", archive, "--base", base.stdout.strip()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    yield Built(tag, archive, done.stdout, environment)
    subprocess.run(["buildah", "rmi", tag], capture_output=True)


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    """Every file of the image by path, the last layer's last."""
    found: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(archive) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))  # type: ignore[arg-type]
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                found |= {member.name.removeprefix("./"): member for member in inner}
    return found


@pytest.mark.parts
@pytest.mark.slow
def test_the_image_is_small_has_no_shell_and_no_privileged_file(built: Built) -> None:
    files = members(built.archive)
    model = sum(file.size for path, file in files.items() if path.startswith("opt/inferstack/models/"))
    size = sum(file.size for file in files.values() if file.isfile())
    assert (size - model) / 1e6 <= LIMIT_MB, f"{(size - model) / 1e6:.0f} MB without the model"
    programs = {Path(path).name for path, file in files.items() if path.startswith(("usr/bin/", "usr/sbin/")) and not file.isdir()}
    assert not programs & {
        "sh",
        "bash",
        "dash",
        "apt",
        "apt-get",
        "dpkg",
        "pip",
        "pip3",
        "curl",
        "wget",
        "perl",
        "cc",
        "gcc",
        "g++",
        "su",
        "mount",
    }
    assert [path for path, file in files.items() if file.isfile() and file.mode & 0o6000] == [], "no set-user-id program"
    assert [path for path, file in files.items() if not file.issym() and file.mode & 0o1002 == 0o002] == [], (
        "written by all, without the sticky bit"
    )


@pytest.mark.parts
@pytest.mark.slow
def test_its_configuration_is_what_clusters_ask_for(built: Built) -> None:
    _, image, _ = image_files(built.archive)
    config = image["config"]
    assert int(config["User"].partition(":")[0]) > 10000
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python3"]
    assert {"org.opencontainers.image.version", "org.opencontainers.image.revision", "org.opencontainers.image.licenses"} <= set(
        config["Labels"]
    )
    assert not [pair for pair in config["Env"] if re.search(r"key|token|secret|password", pair, re.IGNORECASE)]
    assert image["created"].startswith("2025-10-09T08:53:20"), "the time is SOURCE_DATE_EPOCH"


@pytest.mark.parts
@pytest.mark.slow
def test_its_bill_of_materials_is_what_the_image_itself_says(built: Built) -> None:
    components = json.loads(bill_of_materials(built.archive))["components"]
    listed = {(c["purl"].split("/")[0].removeprefix("pkg:"), c["name"], c["version"]) for c in components}
    container = subprocess.run(["buildah", "from", built.tag], capture_output=True, text=True, check=True).stdout.strip()
    try:
        root = subprocess.run(["buildah", "mount", container], capture_output=True, text=True, check=True).stdout.strip()
        ask = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
        command = ["chroot", "--userspec=64000:64000", root, "/opt/inferstack/bin/python3", "-c", ask]
        told = subprocess.run(
            command, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "PYTHONPATH": "/opt/inferstack/models"}
        )
        assert told.returncode == 0, told.stderr
        assert {entry[1:] for entry in listed if entry[0] == "pypi"} == {tuple(entry) for entry in json.loads(told.stdout)}
        records = (Path(root) / "var/lib/dpkg/status.d").iterdir()
        said = {
            tuple(re.search(rf"^{key}: (.+)$", record.read_text(), re.MULTILINE)[1] for key in ("Package", "Version")) for record in records
        }  # type: ignore[index]
        assert {entry[1:] for entry in listed if entry[0] == "deb"} == said
        assert {"libc6", "zlib1g", "libssl3t64"} <= {name for kind, name, _ in listed if kind == "deb"}
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True)


@pytest.mark.parts
@pytest.mark.slow
def test_it_answers_from_a_root_that_cannot_be_written(built: Built) -> None:
    done = subprocess.run([ROOT / "scripts/image-try", built.tag], capture_output=True, text=True, timeout=300, env=built.environment)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"ready in \d+ ms on {platform.machine()}, \w+ kernels, \d+ threads$", done.stdout, re.MULTILINE), done.stdout
    assert "2 of 2 answered (2 by blue)" in done.stdout


@pytest.mark.parts
@pytest.mark.slow
def test_the_same_tree_gives_the_same_layers(built: Built, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    base = subprocess.run([ROOT / "scripts/image-base"], capture_output=True, text=True, check=True, env=built.environment).stdout.strip()
    command = ["buildah", "bud", "--quiet", "--no-cache", "--format", "docker", "--isolation", "chroot", "--timestamp", "1760000000"]
    command += ["--target", "runtime", "--file", "runtime/Dockerfile", "--tag", f"{built.tag}-again", "--build-arg", f"BASE={base}"]
    command += [
        "--build-arg",
        "SOURCE_DATE_EPOCH=1760000000",
        "--secret",
        f"id=ca,src={built.environment.get('INFERSTACK_CA', os.devnull)}",
        ".",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    subprocess.run(["buildah", "push", "--quiet", f"{built.tag}-again", f"docker-archive:{again}:again"], check=True, capture_output=True)
    subprocess.run(["buildah", "rmi", f"{built.tag}-again"], capture_output=True)
    first, second = contents(built.archive), contents(again)
    assert {path for path in second if first.get(path) != second[path]} == set()


def contents(archive: Path) -> dict[str, str]:
    """Hash of every regular file of an image by path."""
    found: dict[str, str] = {}
    with tarfile.open(archive) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))  # type: ignore[arg-type]
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                for member in inner:
                    file = inner.extractfile(member) if member.isfile() else None
                    if file is not None:
                        found[member.name.removeprefix("./")] = f"{member.mtime} {hashlib.sha256(file.read()).hexdigest()}"
    return found
