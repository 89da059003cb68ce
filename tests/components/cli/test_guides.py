"""Every command that a guide shows exists, with the flags that it is given there."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from inferstack.cli import run

ROOT = Path(__file__).parents[3]
GUIDES = [*sorted((ROOT / "docs/guide").glob("*.md")), ROOT / "README.md"]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a page: the lines of its shell blocks and what stands in backticks, each cut at `&&`, `|` and comments."""
    blocks = re.findall(r"```(?:console|sh|bash|shell)?\n(.*?)```", text, re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`((?:inferstack|pulumi|kubectl|gcloud|az) [^`]+)`", text)]:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # prose that an apostrophe cuts
        part: list[str] = []
        for word in [*words, "&&"]:
            if word not in ("&&", "|", ";", "||"):
                part.append(word)
            elif part:
                yield part
                part = []


def shown(program: str) -> list[tuple[str, str]]:
    """(page, command) of every command of a program that the guides show."""
    found = [(page.name, shlex.join(words)) for page in GUIDES for words in commands(page.read_text()) if words[0] == program]
    return list(dict.fromkeys(found))


def flags(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]


def test_the_guides_show_commands_of_both_programs() -> None:
    assert len(shown("inferstack")) >= 5
    assert len(shown("pulumi")) >= 6


@pytest.mark.parametrize(("page", "command"), shown("inferstack"))
def test_a_command_of_inferstack_has_these_flags(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    plain = [word for word in words if not word.startswith("-")]
    names = plain[:1]
    assert run([*names, "--help"]) == 0, command
    text = capsys.readouterr().out
    if len(plain) > 1 and re.search(rf"^\W*{re.escape(plain[1])}\s", text.partition("Commands")[2], re.M):  # a group: its command too
        assert run([*plain[:2], "--help"]) == 0, command
        text += capsys.readouterr().out
    for flag in flags(words):
        assert re.search(rf"{re.escape(flag)}\b", text), f"{page}: {command}: no {flag}"


@cache
def pulumi_help(*names: str) -> str:
    process = subprocess.run(["pulumi", *names, "--help"], capture_output=True, text=True, timeout=60)
    return process.stdout if process.returncode == 0 else ""


@pytest.mark.skipif(shutil.which("pulumi") is None, reason="pulumi not on PATH: its flags are asked of itself")
@pytest.mark.parametrize(("page", "command"), shown("pulumi"))
def test_a_command_of_pulumi_has_these_flags(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    plain = [word for word in words if not word.startswith("-")]
    groups = ("stack", "config", "package", "plugin")
    names = plain[: 2 if plain and plain[0] in groups and len(plain) > 1 and pulumi_help(*plain[:2]) else 1]
    text = pulumi_help(*names)
    assert text, f"{page}: {command}: no such command"
    for flag in flags(words):
        assert f"{flag} " in text or f"{flag}=" in text or f"{flag}\n" in text, f"{page}: {command}: no {flag}"
