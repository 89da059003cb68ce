"""The command line: exit codes, error objects, lazy commands, the project it works on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inferstack.cli import command_names, run
from inferstack.cli.output import Failure, project_root
from inferstack.cli.reference import markdown
from inferstack.local.layout import Layout, remember

ROOT = Path(__file__).parents[3]


def test_help_lists_every_command_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert [name for name in command_names() if name not in shown] == []


@pytest.mark.parametrize("name", command_names())
def test_a_command_adds_itself_under_its_own_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"inferstack {name}" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["enviroment"]) == 2
    assert "Did you mean 'environment'?" in capsys.readouterr().err


def test_a_wrong_environment_is_an_error_object_with_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Pulumi.yaml").touch()
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks/Pulumi.bad.yaml").write_text(
        "config:\n  inferstack:environment: {platform: locall, models: [{name: m, source: 'file://x', context: 0}]}\n"
    )
    assert run(["environment", "validate", "bad", "--project", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error = json.loads(captured.err)["error"]
    assert {"code", "message", "path", "next"} <= error.keys()
    assert error["code"] == 2
    assert [problem["path"] for problem in error["problems"]] == ["models[0].context", "platform"]


def test_without_a_project_the_next_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["environment", "validate", "local"]) == 2
    assert "inferstack init" in capsys.readouterr().err


def test_the_project_is_the_nearest_folder_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Pulumi.yaml").touch()
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert project_root() == tmp_path
    with pytest.raises(Failure):
        project_root(tmp_path / "a")  # a named folder is taken at its word


def test_outside_of_any_project_a_running_environment_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    layout = Layout(tmp_path / "project", "local")
    layout.make()
    remember(layout)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure):
        project_root(running="local")  # was never brought up
    layout.state.write_text("{}")
    assert project_root(running="local") == layout.root
    assert str(layout.root) in capsys.readouterr().err
    with pytest.raises(Failure):
        project_root(running="other")
    with pytest.raises(Failure):
        project_root(tmp_path, "local")  # a named folder is taken at its word


def test_no_colour_codes_without_a_terminal() -> None:
    process = subprocess.run(
        [sys.executable, "-c", "from inferstack.cli import main; main()", "environment", "explain"], capture_output=True
    )
    assert process.returncode == 0
    assert b"\x1b[" not in process.stdout


def test_a_command_whose_streams_were_closed_from_the_start_ends_with_its_own_code(tmp_path: Path) -> None:
    line = f"{sys.executable} -c 'from inferstack.cli import main; main()' status local --project {tmp_path} >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], check=False).returncode == 2


def test_a_command_loads_no_other_command() -> None:
    code = (
        "import sys; from inferstack.cli import run; run(['environment', 'explain', 'platform']);"
        "print([m for m in sys.modules if m.startswith(('pulumi', 'inferstack.cli.', 'grpc'))])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert sorted(eval(printed)) == ["inferstack.cli._stop", "inferstack.cli.environment", "inferstack.cli.output"]


def test_a_key_that_does_not_exist_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["environment", "explain", "slots.replica"]) == 2
    assert "did you mean `slots.replicas" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def gone(*_: object) -> object:
        raise ModuleNotFoundError("No module named 'pulumi'", name="pulumi")

    monkeypatch.setattr("inferstack.cli.environment.explain", gone)
    assert run(["environment", "explain"]) == 2
    assert "pip install 'inferstack[cloud]'" in capsys.readouterr().err


def test_the_configuration_page_is_current() -> None:
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == markdown(), (
        "python -m inferstack.cli.reference > docs/configuration.md"
    )
