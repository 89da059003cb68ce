"""`up` and `down` with real Envoy and Valkey and a runtime without a model: what is started, kept, mended and ended."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from inferstack.local import monitoring

pytestmark = [pytest.mark.parts, pytest.mark.timeout(180)]
PARTS = {"cache", "gateway", "keeper", "slot-blue", "slot-green"}


def events(text):
    return [json.loads(line) for line in text.splitlines()]


def up(project, *arguments):
    done = project.run("up", project.name, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return events(done.stdout)


def failure(done):
    return json.loads(done.stderr)["error"]


def pids(project):
    return {name: part["pid"] for name, part in project.status()["parts"].items()}


def test_up_starts_everything_answers_and_leaves_it_running(project):
    said = up(project)
    phases = [event["phase"] for event in said if event.get("status") == "done"]
    skipped = {event["phase"]: event["detail"] for event in said if event.get("status") == "skipped"}
    assert skipped["prometheus"] == "not installed; Debian and Ubuntu: apt-get install prometheus"
    assert phases == ["check", "cache", "slot blue", "gateway", "slot green", "keeper"]
    answer = next(event for event in said if event["event"] == "answer")
    assert answer["answer"].startswith("word0 word1 ")
    ready = said[-1]
    assert ready["event"] == "ready"
    assert 0 < ready["seconds_to_first_token"] <= ready["seconds"]
    request = urllib.request.Request(ready["base_url"].replace("/v1", "/readyz"))
    with urllib.request.urlopen(request) as response:
        assert response.headers["x-inferstack-slot"] == "blue"
    status = project.status()
    assert status["weights"] == {"blue": 100, "green": 0}
    assert status["active_slot"] == "blue"
    assert all(slot["healthy"] and slot["ready"] and slot["replicas"] == 1 for slot in status["slots"].values())
    assert set(status["parts"]) == PARTS


def test_down_ends_all_of_it_and_nothing_else(project):
    up(project)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=project.root)
    try:
        stopped = json.loads(project.run("down", "local", "--json").stdout)["stopped"]
        assert set(stopped) == PARTS
        assert project.processes() == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    again = project.run("down", "local")
    assert again.returncode == 0
    assert "nothing was running" in again.stdout
    assert project.status()["phase"] == "down"


@pytest.mark.skipif(not all(monitor.program for monitor in monitoring.find().values()), reason="needs Prometheus and Alertmanager")
def test_monitors_that_are_installed_run_with_it_and_scrape_every_part(project, monkeypatch):
    monkeypatch.setenv("MONITORS", "1")
    said = up(project)
    address = next(event["detail"] for event in said if event.get("phase") == "prometheus" and event["status"] == "done")
    deadline, healths = time.monotonic() + 30, {}
    while set(healths.values()) != {"up"}:
        assert time.monotonic() < deadline, healths
        with urllib.request.urlopen(f"{address}/api/v1/targets") as answer:
            targets = json.load(answer)["data"]["activeTargets"]
        healths = {(target["labels"]["job"], target["labels"].get("slot")): target["health"] for target in targets}
        time.sleep(0.2)
    assert set(healths) == {("inferstack", "blue"), ("inferstack", "green"), ("promotion", None), ("gateway", None)}
    with urllib.request.urlopen(f"{address}/api/v1/alertmanagers") as answer:
        assert len(json.load(answer)["data"]["activeAlertmanagers"]) == 1
    assert set(project.status()["parts"]) == PARTS | {"prometheus", "alertmanager"}
    assert rule(address, "ErrorsHigh").endswith("> 0.1")
    inhibits = json.loads((project.directory / "alertmanager.json").read_text())["inhibit_rules"]
    assert any('alertname="ErrorBudgetBurnFast"' in item["source_matchers"] for item in inhibits)

    project.edit(monitoring={"thresholds": {"ErrorsHigh": 0.07}})
    up(project)
    assert rule(address, "ErrorsHigh").endswith("> 0.07"), "an edited threshold takes hold with the next up"


def rule(address, name):
    """The query of an alert, as Prometheus itself has it."""
    with urllib.request.urlopen(f"{address}/api/v1/rules?type=alert") as answer:
        groups = json.load(answer)["data"]["groups"]
    return next(rule["query"] for group in groups for rule in group["rules"] if rule["name"] == name)


def test_a_second_up_says_it_runs_and_restarts_nothing(project):
    up(project)
    before = pids(project)
    said = up(project)
    check = next(event for event in said if event.get("phase") == "check" and event["status"] == "done")
    assert check["detail"] == "already running: cache, gateway, keeper, slot-blue, slot-green"
    assert pids(project) == before


def test_limits_that_hold_back_the_first_question_do_not_hold_back_up(project):
    project.edit(models=[{"name": "tiny", "source": "file:///limited", "quantization": "gguf", "context": 128}])
    said = up(project)
    assert "429" in next(event for event in said if event["event"] == "answer")["limited"]
    assert said[-1]["seconds_to_first_token"] is None


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_that_was_killed_is_mended_by_the_next_up_and_only_that_one(project, part):
    up(project)
    before = pids(project)
    os.kill(before[part], signal.SIGKILL)
    time.sleep(0.1)
    assert project.status()["running"] is False
    up(project)
    after = pids(project)
    assert {name for name in PARTS if before[name] != after[name]} == {part}
    assert all(slot["healthy"] for slot in project.status()["slots"].values())


def test_weights_and_slots_survive_down_and_up(project):
    from inferstack.local.machine import LocalMachine

    up(project)
    machine = LocalMachine.open(project.root, "local")
    config = machine.slot_config("green")
    machine.restart_slot("green", {**config, "identity": {**config["identity"], "generation": 2}})
    machine.wait_ready("green", 10)
    machine.set_weights({"blue": 0, "green": 100})
    assert machine.slot("green").generation == 2
    project.run("down", "local")
    up(project)
    status = project.status()
    assert (status["active_slot"], status["generation"], status["weights"]) == ("green", 2, {"blue": 0, "green": 100})


def test_an_edited_environment_starts_anew_after_down(project):
    from inferstack.local.machine import LocalMachine

    up(project)
    LocalMachine.open(project.root, "local").set_weights({"blue": 0, "green": 100})
    key = (project.directory / "api-key").read_text()
    project.edit(models=[{"name": "other", "source": "file:///works", "quantization": "int8", "context": 128}])
    said = up(project)
    assert any("environment file has changed" in (event.get("detail") or "") for event in said)
    assert project.status()["slots"]["blue"]["model"] == "tiny"
    project.run("down", "local")
    up(project)
    status = project.status()
    assert status["weights"] == {"blue": 100, "green": 0}
    assert {slot["model"] for slot in status["slots"].values()} == {"other"}
    assert (project.directory / "api-key").read_text() == key


def test_weight_never_goes_to_a_slot_that_is_not_healthy(project):
    from inferstack.local.errors import LocalError
    from inferstack.local.machine import LocalMachine

    up(project)
    machine = LocalMachine.open(project.root, "local")
    machine.stop_slot("green")
    deadline = time.monotonic() + 10
    while machine.healthy("green"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(LocalError, match="slot green not healthy"):
        machine.wait_healthy("green", 0.2)
    assert machine.weights() == {"blue": 100, "green": 0}


def test_a_slot_that_dies_while_starting_shows_its_last_words(project):
    project.edit(models=[{"name": "tiny", "source": "file:///fails", "quantization": "gguf", "context": 128}])
    done = project.run("up", "local", "--json")
    assert done.returncode == 5
    error = failure(done)
    assert "slot blue ended while starting" in error["message"]
    assert "cannot load file:///fails: no such file" in error["message"]
    project.edit(models=[{"name": "tiny", "source": "file:///works", "quantization": "gguf", "context": 128}])
    up(project)


def test_a_taken_gateway_port_is_named_with_its_holder(project):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        project.edit(gateway={"port": port})
        done = project.run("up", "local", "--json")
    assert done.returncode == 5
    assert f"port {port} on 127.0.0.1 is taken by process {os.getpid()}" in failure(done)["message"]
    assert failure(done)["path"] == "gateway.port"
    assert project.processes() == []
    up(project)


def test_a_full_disk_is_said_so_and_up_works_when_there_is_room(project, monkeypatch):
    """The disk fills up before the k-th file is on it, for every k."""
    from inferstack.local.errors import LocalError
    from inferstack.local.up import up as bring_up

    real, written, room = os.fsync, 0, 0

    def fsync(descriptor):
        nonlocal written
        written += 1
        if written > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    failures = []
    done = False
    while not done:
        written = 0
        try:
            bring_up(project.root, "local", lambda event: None)
            done = True
        except LocalError as error:
            failures.append(f"{error.message} {error.next_step}")
            room += 1
    assert len(failures) > 5
    assert all("the disk is full" in failure and "inferstack up local" in failure for failure in failures)
    assert all(slot["healthy"] for slot in project.status()["slots"].values())


def test_an_environment_of_another_platform_is_refused(project):
    project.edit(platform="gke", region="europe-west4", cloud={"project": "p"}, cache={"backend": "none"})
    project.edit(engine={"image": "x@sha256:" + "0" * 64}, gateway={"hostname": "h.example"})
    done = project.run("up", "local", "--json")
    assert done.returncode == 2
    assert "platform is 'gke'" in failure(done)["message"]
    done = project.run("down", "local", "--json")
    assert done.returncode == 2
    assert "pulumi destroy" in failure(done)["next"]


def test_a_missing_extra_is_named(project):
    code = (
        "import sys; sys.modules['envoy'] = None; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(Path(__file__).with_name("command.py")),
        "up",
        "local",
        "--json",
        "--project",
        str(project.root),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert failure(done)["next"].startswith("pip install 'inferstack[local]'")


def test_commands_on_an_environment_that_is_down_say_how_to_start_it(project):
    for arguments in (("chat", "local", "hello"), ("load", "local", "--seconds", "1")):
        done = project.run(*arguments)
        assert done.returncode == 5
        assert "inferstack up local" in done.stderr
    status = project.status()
    assert (status["phase"], status["active_slot"], status["weights"]) == ("down", None, {"blue": 0, "green": 0})


def test_chat_streams_an_answer(project):
    up(project)
    done = project.run("chat", "local", "how are you?", "--max-tokens", "3")
    assert done.stdout == "word0 word1 word2 \n"
    assert json.loads(project.run("chat", "local", "again", "--json").stdout)["seconds_to_first_token"] > 0
    done = project.run("chat", "local", "hello", "--model", "nobody")
    assert done.returncode == 2
    assert "one of tiny" in done.stderr


@pytest.mark.parametrize("connections", ["--new-connections", None])
def test_a_load_reports_no_loss_while_weights_move(project, connections):
    from inferstack.local.machine import LocalMachine

    up(project)
    machine = LocalMachine.open(project.root, "local")
    load = project.start("load", "local", "--clients", "8", "--seconds", "4", "--max-tokens", "10", "--json", *filter(None, [connections]))
    for green in (50, 100, 0, 100):
        time.sleep(0.8)
        machine.set_weights({"blue": 100 - green, "green": green})
    out, err = load.communicate(timeout=60)
    assert load.returncode == 0, err
    report = json.loads(out)
    assert report["ok"] == report["requests"] > 50
    assert (report["lost"], report["truncated"]) == (0, 0)
    assert set(report["slots"]) == {"blue", "green"}


def test_a_load_counts_what_a_killed_slot_takes_with_it(project):
    up(project)
    load = project.start("load", "local", "--clients", "4", "--seconds", "3", "--json")
    time.sleep(1.5)
    os.kill(pids(project)["slot-blue"], signal.SIGKILL)
    out, _ = load.communicate(timeout=60)
    assert load.returncode == 5
    report = json.loads(out)
    assert report["truncated"] > 0
    assert report["lost"] > 0


def test_foreground_stays_until_it_is_told_to_end(project):
    process = project.start("up", "local", "--foreground", "--json")
    while '"ready"' not in (line := process.stdout.readline()):
        assert line
    assert set(project.status()["parts"]) == PARTS
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert project.processes() == []


def test_down_finds_everything_wherever_up_was_killed(project):
    """`up` is killed as soon as it has said its k-th line, for every k; `down` then leaves no process."""
    lines = len(up(project))
    project.run("down", "local")
    for count in range(1, lines):
        process = project.start("up", "local", "--json", start_new_session=True)
        for _ in range(count):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        done = project.run("down", "local", "--drain-seconds", "0")
        assert done.returncode == 0, done.stderr
        assert project.processes() == [], f"killed after line {count}"


def test_up_goes_on_wherever_up_was_killed(project):
    """`up` is killed at moments spread over its run; the next one converges every time, and `down` ends all."""
    for delay in (0.25, 0.4, 0.55, 0.7, 0.9, 1.2):
        process = project.start("up", "local", "--json")
        time.sleep(delay)
        process.kill()
        process.communicate()
        up(project)
        assert all(slot["healthy"] for slot in project.status()["slots"].values())
        assert set(project.status()["parts"]) == PARTS
        running = list(pids(project).values())
        assert sorted(project.processes()) == sorted(running)
        project.run("down", "local", "--drain-seconds", "0")
        assert project.processes() == []
