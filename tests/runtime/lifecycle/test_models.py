import asyncio
import importlib
import time

import pytest
from conftest import running, write_keys
from fake_engine import FakeEngine, fake_model

from inferstack_runtime.config import LifecycleConfig, ModelConfig
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.lifecycle.models import Models
from inferstack_runtime.metrics import Metrics

ADMIN = {"authorization": "Bearer root"}
LOAD = "/api/v1/models/load"


def model_config(name, **more):
    return ModelConfig(name=name, source=f"package://{name}", **more)


@pytest.fixture
async def administered(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={}, root={"scopes": ["inference", "admin"]})
    models = {"models": [{"name": "fake", "source": "package://fake"}, {"name": "lazy", "source": "package://lazy", "lazy": True}]}
    async with running(access={"keys_file": str(file)}, lifecycle={"allow": ["package://"]}, **models) as run:
        run.client.headers.update(ADMIN)
        yield run


async def test_loading_needs_the_admin_scope(administered):
    answer = await administered.post(LOAD, {"model_name": "lazy"}, authorization="Bearer alice")
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "insufficient_scope"


async def test_a_model_is_loaded_once_and_reports_progress(administered):
    first = await administered.post(LOAD, {"model_name": "lazy"})
    assert first.status_code in (200, 202)
    done = await administered.post(LOAD, {"model_name": "lazy", "wait": True})
    assert done.status_code == 200
    assert done.json()["status"] == "loaded"
    assert done.json()["progress"] == 1.0
    status = (await administered.client.get("/api/v1/models/status/lazy")).json()
    assert status["digest"].startswith("sha256:")
    assert administered.service.metrics.value("inferstack_model_loads_total", model="lazy", result="ok") == 1


async def test_unloading_waits_for_work_in_flight_and_ends_service(administered):
    administered.engine.step_seconds = 0.01
    asking = asyncio.create_task(administered.post("/v1/completions", {"model": "fake", "prompt": "x", "max_tokens": 15}))
    await asyncio.sleep(0.05)
    unloaded = await administered.client.delete("/api/v1/models/fake")
    assert asking.done(), "the request ended before the model left"
    assert (await asking).json()["usage"]["completion_tokens"] == 15
    assert unloaded.json()["status"] == "unloaded"
    assert (await administered.post("/v1/completions", {"model": "fake", "prompt": "x"})).status_code == 404
    assert (await administered.post(LOAD, {"model_name": "fake", "wait": True})).json()["status"] == "loaded"
    assert (await administered.post("/v1/completions", {"model": "fake", "prompt": "x"})).status_code == 200


async def test_a_further_model_comes_from_an_allowed_source_only(administered):
    answer = await administered.post(
        LOAD, {"provider": "package", "model_name": "New_Model", "quantization": "int8", "max_batch_size": 4, "wait": True}
    )
    assert answer.status_code == 200
    assert answer.json()["model_id"] == "new-model"
    assert answer.json()["source"] == "package://New_Model"
    assert (await administered.post("/v1/completions", {"model": "new-model", "prompt": "x"})).status_code == 200
    refused = await administered.post(LOAD, {"provider": "file", "model_name": "/etc/passwd"})
    assert refused.status_code == 403
    assert (await administered.post(LOAD, {"provider": "local_ollama", "model_name": "m"})).status_code == 400
    assert (await administered.post(LOAD, {"model_name": "unknown"})).status_code == 404


async def test_a_loaded_model_is_not_changed_silently(administered):
    answer = await administered.post(LOAD, {"model_name": "fake", "quantization": "int4"})
    assert answer.status_code == 409
    assert answer.json()["error"]["param"] == "quantization"


async def test_a_lazy_model_is_loaded_by_its_first_request(administered):
    assert administered.service.models.find("lazy").state == "unloaded"
    answers = await asyncio.gather(*(administered.post("/v1/completions", {"model": "lazy", "prompt": "x"}) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert administered.service.metrics.value("inferstack_model_loads_total", model="lazy", result="ok") == 1


async def test_an_idle_model_leaves_and_comes_back():
    async with running(lifecycle={"idle_seconds": 0.2}) as run:
        idle = asyncio.create_task(run.service.models.unload_idle(0.2))
        served = run.service.models.find("fake")
        async with asyncio.timeout(5):
            while served.state != "unloaded":
                await asyncio.sleep(0.02)
        assert (await run.post("/v1/completions", {"model": "fake", "prompt": "x"})).status_code == 200
        assert run.service.metrics.value("inferstack_model_unloads_total", model="fake", reason="idle") == 1
        idle.cancel()
        await asyncio.gather(idle, return_exceptions=True)


def loader(config, report):
    time.sleep(0.01)
    return fake_model(config.name, FakeEngine())


async def test_models_share_one_budget_and_the_least_used_leaves():
    configs = [model_config(name) for name in "abc"]
    models = Models(configs, loader, Metrics(), LifecycleConfig(memory_bytes=200), lambda config: 100)
    await models.load("a")
    await models.load("b")
    with models.use(models.find("a")):
        await models.load("c")
        assert [models.find(name).state for name in "abc"] == ["ready", "unloaded", "ready"]
        with models.use(models.find("c")), pytest.raises(ModelLoadError, match="in use"):
            await models.load("b")
    await models.close()


async def test_a_model_larger_than_the_budget_is_refused():
    models = Models([model_config("a")], loader, Metrics(), LifecycleConfig(memory_bytes=50), lambda config: 100)
    with pytest.raises(ModelLoadError, match="memory_bytes is 50"):
        await models.load("a")
    assert models.find("a").state == "failed"


async def test_a_load_that_fails_can_be_tried_again():
    turns = []

    def flaky(config, report):
        turns.append(1)
        if len(turns) == 1:
            raise ModelLoadError("no such file")
        return fake_model()

    models = Models([model_config("a")], flaky, Metrics())
    results = await asyncio.gather(models.load("a"), models.load("a"), return_exceptions=True)
    assert all(isinstance(result, ModelLoadError) for result in results)
    assert len(turns) == 1
    assert (await models.load("a")).state == "ready"
    await models.close()


async def test_an_unloading_goes_on_when_its_caller_leaves_and_the_model_comes_back(administered):
    administered.engine.step_seconds = 0.01
    asking = asyncio.create_task(administered.post("/v1/completions", {"model": "fake", "prompt": "x", "max_tokens": 15}))
    await asyncio.sleep(0.05)
    models = administered.service.models
    leaving = [asyncio.create_task(models.unload("fake", "request")) for _ in range(2)]
    await asyncio.sleep(0.02)
    assert models.find("fake").state == "unloading"
    leaving[0].cancel()
    coming = asyncio.create_task(administered.post(LOAD, {"model_name": "fake", "wait": True}))
    await leaving[1]
    assert (await asking).status_code == 200
    async with asyncio.timeout(5):
        assert (await coming).json()["status"] == "loaded"
    assert (await administered.post("/v1/completions", {"model": "fake", "prompt": "x"})).status_code == 200
    assert administered.service.metrics.value("inferstack_model_unloads_total", model="fake", reason="request") == 1


async def test_an_engine_that_fails_to_close_leaves_no_model_between_two_states(monkeypatch):
    def fails():
        raise RuntimeError("stuck")

    engine = FakeEngine()
    monkeypatch.setattr(engine, "close", fails)
    models = Models([model_config("a")], lambda config, report: fake_model("a", engine), Metrics())
    await models.load("a")
    with pytest.raises(RuntimeError, match="stuck"):
        await models.unload("a", "idle")
    monkeypatch.undo()
    assert (await models.load("a")).state == "ready"
    await models.close()


async def test_a_path_cannot_leave_the_folder_that_is_allowed(tmp_path):
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]})
    async with running(access={"keys_file": str(keys)}, lifecycle={"allow": ["file:///models/", "hf://org/"]}) as run:
        run.client.headers.update(ADMIN)
        for provider, name in (("file", "/models/../etc/m.gguf"), ("file", "/models/a/../../m.gguf"), ("hf", "org/../other/m.gguf")):
            answer = await run.post(LOAD, {"provider": provider, "model_name": name})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "source_not_allowed"), name
        assert (await run.post(LOAD, {"provider": "file", "model_name": "/models/a..b.gguf", "wait": True})).status_code == 200


async def test_a_name_with_a_slash_is_found_however_its_client_writes_it(tmp_path):
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]})
    models = [{"name": name, "source": "package://x", "lazy": name != "fake"} for name in ("fake", "org/name", "a%2Fb")]
    async with running(access={"keys_file": str(keys)}, models=models) as run:
        run.client.headers.update(ADMIN)
        for path in ("/v1/models", "/api/v1/models/status"):
            for written, name in (("org/name", "org/name"), ("org%2Fname", "org/name"), ("a%252Fb", "a%2Fb")):
                answer = await run.client.get(f"{path}/{written}")
                assert answer.status_code == 200, answer.text
                assert name in (answer.json().get("id"), answer.json().get("model_id"))
        assert (await run.client.get("/v1/models/")).status_code == 404
        assert (await run.client.get("/v1/models/org/other")).json()["error"]["code"] == "model_not_found"
        assert (await run.client.delete("/api/v1/models/org/name")).json()["status"] == "unloaded"
        assert (await run.client.get("/v1/files/a/b")).json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/inference", "/chat/stream"])
async def test_a_model_that_leaves_while_a_request_is_read_is_not_a_failure_of_the_server(path, monkeypatch):
    text = "word " * 3000
    async with running(context=65536) as run:
        module = importlib.import_module(
            f"inferstack_runtime.api.{ {'/v1/chat/completions': 'chat', '/v1/completions': 'completions'}.get(path, 'simple') }"
        )

        async def leaves_first(long, work):
            await run.service.models.unload("fake", "request")
            return work()

        monkeypatch.setattr(module, "in_turn", leaves_first)
        body = {"messages": [{"role": "user", "content": text}]} if "completions" in path and "chat" in path else {"prompt": text}
        body = {"query": text} if path == "/chat/stream" else body | {"model": "fake"}
        answer = await run.post(path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_ready")
