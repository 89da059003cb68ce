import dataclasses
import logging
from types import SimpleNamespace

import conftest
import pytest
from conftest import running

from inferstack_runtime.engines import device
from inferstack_runtime.engines.base import ModelLoadError, Placement
from inferstack_runtime.engines.device import Gpu, find_gpu, place

HAS, NONE = Gpu(), Gpu("no NVIDIA driver: libcuda.so.1 cannot be opened")


@pytest.mark.parametrize(
    ("wanted", "kind", "gpu", "chosen", "fallback"),
    [
        ("auto", "native", HAS, "cpu", False),
        ("auto", "native", NONE, "cpu", False),
        ("auto", "transformers", HAS, "cuda", False),
        ("auto", "transformers", NONE, "cpu", True),
        ("cpu", "transformers", HAS, "cpu", False),
        ("cpu", "native", NONE, "cpu", False),
        ("cuda", "transformers", HAS, "cuda", False),
    ],
)
def test_a_model_computes_where_setting_engine_and_machine_meet(wanted, kind, gpu, chosen, fallback):
    for allowed in (False, True):
        found = place(wanted, allowed, kind, gpu)
        assert (found.device, found.fallback) == (chosen, fallback)
        assert found.reason


@pytest.mark.parametrize(("kind", "gpu", "why"), [("native", HAS, "native engine computes on the CPU"), ("transformers", NONE, "libcuda")])
def test_a_gpu_that_is_demanded_and_impossible_is_an_error_unless_the_cpu_is_allowed(kind, gpu, why):
    with pytest.raises(ModelLoadError, match=rf"engine\.device: is 'cuda', but .*{why}.*engine\.cpu_fallback"):
        place("cuda", False, kind, gpu)
    found = place("cuda", True, kind, gpu)
    assert (found.device, found.fallback) == ("cpu", True)
    assert why in found.reason


def test_the_driver_is_asked_and_not_guessed(monkeypatch):
    def driver(init=0, count=0):
        def count_into(number):
            number._obj.value = count
            return 0

        return SimpleNamespace(cuInit=lambda flags: init, cuDeviceGetCount=count_into)

    for answer, expected in (
        (driver(init=100), "sees no device (CUDA error 100)"),
        (driver(count=0), "sees no device"),
        (driver(count=2), None),
    ):
        monkeypatch.setattr(device.ctypes, "CDLL", lambda name, answer=answer: answer)
        missing = find_gpu.__wrapped__().missing
        assert missing == expected or expected in missing
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("no such file")))
    assert "libcuda.so.1" in find_gpu.__wrapped__().missing


async def test_a_fallback_is_said_in_status_metric_and_log(caplog, monkeypatch):
    made = conftest.fake_model

    def on_cpu(*arguments, **options):
        return dataclasses.replace(made(*arguments, **options), placement=Placement(fallback=True, reason=NONE.missing))

    monkeypatch.setattr(conftest, "fake_model", on_cpu)
    caplog.set_level(logging.WARNING)
    async with running() as run:
        shown = (await run.client.get("/health")).json()["models"]["fake"]
        assert shown["device"] == "cpu"
        assert shown["cpu_fallback"] == NONE.missing
        assert run.service.metrics.value("inferstack_model_cpu_fallback", model="fake") == 1
    (line,) = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("reason") == NONE.missing]
    assert line["model"] == "fake"
