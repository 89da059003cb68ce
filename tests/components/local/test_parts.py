"""A recorded process is started once, found again, and never taken for another."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inferstack.local import launch, parts
from inferstack.local.errors import LocalError
from inferstack.local.layout import Layout, read_json, write_json
from inferstack.local.parts import last_lines, read_part, read_parts, start_part, stop_part

PYTHON = sys.executable


@pytest.fixture
def layout(tmp_path):
    made = Layout(tmp_path, "local")
    made.make()
    yield made
    for name in read_parts(made):
        stop_part(made, name, 0)


def sleeper(layout, name="sleeper", code="import time; time.sleep(60)"):
    return start_part(layout, name, [PYTHON, "-c", code])


def wait_for(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_started_part_is_on_record_and_alive(layout):
    part = sleeper(layout)
    assert part.alive
    assert read_part(layout, "sleeper") == part
    assert os.getsid(part.pid) == part.pid


def test_starting_a_part_that_runs_changes_nothing(layout):
    assert sleeper(layout) == sleeper(layout)


def test_stop_ends_it_and_forgets_it(layout):
    part = sleeper(layout)
    assert stop_part(layout, "sleeper", 5) is True
    assert not part.alive
    assert read_parts(layout) == {}
    assert stop_part(layout, "sleeper", 5) is False


def test_a_part_that_ignores_sigterm_is_killed_after_its_grace(layout, tmp_path):
    ready = tmp_path / "ready"
    code = (
        f"import signal, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    part = sleeper(layout, code=code)
    wait_for(ready.exists)
    assert stop_part(layout, "sleeper", 0.1)
    assert not part.alive


def test_a_later_process_with_the_same_id_is_left_alone(layout):
    innocent = subprocess.Popen([PYTHON, "-c", "import time; time.sleep(60)"])
    try:
        record = {"name": "sleeper", "token": "0" * 32, "command": ["x"], "pid": innocent.pid, "identity": "another boot/1"}
        write_json(layout.parts / "sleeper.json", record)
        assert not read_part(layout, "sleeper").alive
        assert stop_part(layout, "sleeper", 0) is False
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_part_that_was_started_is_alive_for_another_process_too(layout):
    sleeper(layout)
    code = (
        "import sys, pathlib; from inferstack.local.layout import Layout; from inferstack.local.parts import read_part; "
        "print(read_part(Layout(pathlib.Path(sys.argv[1]), 'local'), 'sleeper').alive)"
    )
    answer = subprocess.run([PYTHON, "-c", code, str(layout.root)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "True"


def test_children_that_a_part_leaves_behind_are_ended_with_it(layout, tmp_path):
    child_file = tmp_path / "child"
    code = (
        "import subprocess, sys, pathlib, os;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True);"
        f"pathlib.Path({str(child_file)!r}).write_text(str(child.pid)); os._exit(0)"
    )
    sleeper(layout, code=code)
    wait_for(lambda: child_file.exists() and child_file.read_text())
    child = int(child_file.read_text())
    assert launch.identity(child) is not None
    assert stop_part(layout, "sleeper", 1) is True
    wait_for(lambda: launch.identity(child) is None)


@pytest.mark.parametrize("after", ["no record", "another token"])
def test_a_launch_that_was_called_off_starts_nothing(layout, tmp_path, after):
    record = layout.parts / "sleeper.json"
    if after == "another token":
        write_json(record, {"name": "sleeper", "token": "new", "command": [], "pid": None, "identity": None})
    touched = tmp_path / "touched"
    command = [PYTHON, "-I", "-S", launch.__file__, str(record), "old", "/usr/bin/env", "touch", str(touched)]
    assert subprocess.run(command, check=False).returncode == launch.ABANDONED
    assert not touched.exists()


def test_stopping_a_part_whose_launcher_is_under_way_calls_it_off(layout):
    record = layout.parts / "sleeper.json"
    write_json(record, {"name": "sleeper", "token": "t", "command": ["x"], "pid": None, "identity": None})
    assert stop_part(layout, "sleeper", 0) is False
    assert not record.exists()


def test_the_launcher_records_the_part_before_it_becomes_it(layout, tmp_path):
    record = layout.parts / "copy.json"
    write_json(record, {"name": "copy", "token": "t", "command": [], "pid": None, "identity": None})
    seen = tmp_path / "seen"
    command = [PYTHON, "-I", "-S", launch.__file__, str(record), "t", "/bin/cp", str(record), str(seen)]
    child = subprocess.Popen(command)
    child.wait()
    assert json.loads(seen.read_text())["pid"] == child.pid


def test_a_part_keeps_nothing_open_that_its_starter_held(layout, tmp_path):
    seen = tmp_path / "seen"
    code = "import os, pathlib, sys; held = [fd for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}')];"
    code += f"pathlib.Path({str(seen)!r}).write_text(f'{{held}}')"
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        sleeper(layout, code=code)
        wait_for(lambda: seen.exists() and seen.read_text())
    assert seen.read_text() == "[]"


def test_a_program_that_does_not_exist_is_named(layout):
    with pytest.raises(LocalError, match="/nowhere/program is not an executable file"):
        start_part(layout, "sleeper", ["/nowhere/program"])
    assert read_parts(layout) == {}


def test_the_last_lines_of_a_log_are_those_before_its_end(layout):
    sleeper(layout, code="for i in range(100): print('line', i)")
    wait_for(lambda: "line 99" in last_lines(layout, "sleeper"))
    assert last_lines(layout, "sleeper", 2) == "    line 98\n    line 99"
    assert "cannot be read" in last_lines(layout, "nobody")


def test_a_large_log_is_set_aside_at_the_next_start(layout, monkeypatch):
    monkeypatch.setattr(parts, "LARGE_LOG_BYTES", 5)
    for size in (5, 6):
        layout.log("sleeper").write_text("x" * size)
        sleeper(layout, code="pass")
        wait_for(lambda: not read_part(layout, "sleeper").alive)
        assert layout.log("sleeper").with_suffix(".old.log").exists() is (size > 5)
    assert layout.log("sleeper").read_text() == ""


def test_the_identity_of_a_process_tells_it_from_others():
    assert launch.identity(os.getpid()) == launch.identity(os.getpid())
    assert launch.identity(os.getpid()) != launch.identity(1)
    assert launch.identity(2**22 + 1) is None


def test_a_zombie_does_not_count_as_running():
    child = subprocess.Popen([PYTHON, "-c", "pass"])
    wait_for(lambda: Path(f"/proc/{child.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z")
    assert launch.identity(child.pid) is None
    child.wait()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_json(path, {"a": 1})
    assert path.stat().st_mode & 0o777 == 0o600

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]
