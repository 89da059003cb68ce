"""The pieces that a machine is made of, without a machine."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml
from machine import build, images, layout, pins, pki, processes, programs
from machine.layout import Machine, Ports


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine("pods", tmp_path, Path("/programs"), Ports(api=6443, gateway=8080))


def test_every_program_of_go_mod_is_pinned_to_one_version() -> None:
    text = (pins.PROGRAMS / "go.mod").read_text()
    staging = re.findall(r"^\s*(k8s\.io/\S+) => \1 (\S+)$", text, re.MULTILINE)
    assert len(staging) > 20
    assert {version for _, version in staging} == {f"v0.{pins.kubernetes_version().removeprefix('v1.')}"}


def test_a_program_is_built_again_when_a_pin_or_a_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "programs"
    shutil.copytree(pins.PROGRAMS, copy)
    monkeypatch.setattr(build, "PROGRAMS", copy)
    before = build._key()
    assert before == build._key()
    source = copy / "pause" / "main.go"
    source.write_text(source.read_text() + "\n// changed\n")
    after_source = build._key()
    module = copy / "go.sum"
    module.write_text(module.read_text() + "\n")
    assert len({before, after_source, build._key()}) == 3


def test_a_pinned_module_with_another_checksum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"Sum": "h1:other", "Dir": "/nowhere"}
    monkeypatch.setattr(build, "_go", lambda *_, **__: json.dumps(answer))
    with pytest.raises(build.CannotBuild, match="h1:other"):
        build.custom_resources(pins.CUSTOM_RESOURCES[:1])


def test_without_go_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CannotBuild, match="install Go"):
        build.build("api", tmp_path / "cache", lambda _: None)


def test_paths_of_sockets_stay_within_what_unix_allows() -> None:
    longest = layout.default_folder() / "kubelet" / "device-plugins" / "kubelet.sock"
    assert len(str(longest)) <= 107


def test_a_machine_is_found_again_from_what_it_saved(machine: Machine) -> None:
    machine.save()
    assert layout.load(machine.folder) == machine
    assert layout.load(machine.folder / "nothing") is None


def test_kubeconfigs_name_the_one_context_and_hold_their_keys(tmp_path: Path) -> None:
    pki.make(tmp_path / "pki", 12345)
    config = yaml.safe_load((tmp_path / "pki" / "admin.kubeconfig").read_text())
    assert config["current-context"] == layout.CONTEXT
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:12345"
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    assert (tmp_path / "pki").stat().st_mode & 0o077 == 0


def test_outside_of_its_own_namespaces_everything_listens_on_loopback(tmp_path: Path) -> None:
    m = Machine("api", tmp_path, Path("/programs"), Ports(1, 2, 3, 4, 5, 6, 7, 8))
    arguments = [*programs.etcd(m).argv, *programs.api_server(m).argv, *programs.controllers(m).argv, *programs.scheduler(m).argv]
    bound = [argument for argument in arguments if "bind-address" in argument or "listen-" in argument]
    assert len(bound) == 5
    assert all("127.0.0.1" in argument for argument in bound)


def test_an_image_is_an_oci_archive_whose_digests_are_those_of_its_blobs(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"program")
    images.pause(program, tmp_path / "pause.tar", "amd64")
    with tarfile.open(tmp_path / "pause.tar") as tar:
        names = tar.getnames()
        for name in names:
            if name.startswith("blobs/sha256/"):
                content = tar.extractfile(name)
                assert content
                assert hashlib.sha256(content.read()).hexdigest() == name.removeprefix("blobs/sha256/")
        index = tar.extractfile("index.json")
        assert index
        entry = json.loads(index.read())["manifests"][0]
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/pause:1"
    assert entry["digest"].replace("sha256:", "blobs/sha256/") in names


def test_equal_files_give_equal_images(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        program = tmp_path / name / "pause"
        program.parent.mkdir()
        program.write_bytes(b"program")
        os.utime(program, (len(digests), len(digests)))
        images.pause(program, program.with_suffix(".tar"), "amd64")
        digests.append(hashlib.sha256(program.with_suffix(".tar").read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_a_program_is_ended_with_its_children_and_started_again_with_the_same_command(tmp_path: Path) -> None:
    first = processes.start(tmp_path, "sleeper", ["sh", "-c", "sleep 60 & echo up; wait"], {"NAME": "value"})
    log = tmp_path / "log" / "sleeper"
    _until(lambda: "up" in log.read_text())
    children = processes._descendants(first.pid)
    assert len(children) == 1
    assert processes.named(tmp_path, "sleeper") == first
    processes.end(first)
    assert not first.alive
    _until(lambda: processes._start_time(children[0]) is None)
    second = processes.again(tmp_path, "sleeper")
    try:
        assert second.argv == first.argv
        assert second.environment == (("NAME", "value"),)
        assert second.alive
        with pytest.raises(RuntimeError, match="still runs"):
            processes.again(tmp_path, "sleeper")
    finally:
        processes.end(second)


def test_a_pid_that_somebody_else_has_now_is_not_the_program_that_was_started(tmp_path: Path) -> None:
    running = processes.start(tmp_path, "sleeper", ["sleep", "60"])
    other = processes.Running("sleeper", running.pid, running.started + 1, (), (), ())
    try:
        assert running.alive
        assert not other.alive
        processes.end(other)
        assert running.alive
    finally:
        os.kill(running.pid, signal.SIGKILL)
        processes.end(running)


@pytest.mark.slow
def test_what_would_not_end_in_time_is_skipped_by_name_with_the_reason() -> None:
    one = f"{Path(__file__).parent}/test_admission.py::test_every_environment_of_this_kit_is_among_them"
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--timeout=60", one]
    for left, outcome in ((120, "1 skipped"), (3600, "1 passed")):
        environment = os.environ | {"INFERSTACK_TESTS_END": str(time.time() + left)}
        done = subprocess.run(words, cwd=layout.project_root(), env=environment, capture_output=True, text=True, check=False)
        assert outcome in done.stdout, done.stdout + done.stderr
        assert ("minutes are left of what all tests may take, and this needs 10" in done.stdout) == (left == 120)


def _until(happened: object, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if callable(happened) and happened():
            return
        time.sleep(0.02)
    raise AssertionError(f"not in {seconds:g} s")
