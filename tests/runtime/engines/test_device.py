from inferstack_runtime.engines import registry
from inferstack_runtime.engines.base import Placement
from inferstack_runtime.engines.device import Gpu


def test_the_bundled_model_says_where_it_computes_and_that_it_lacks_no_gpu(load, monkeypatch):
    for gpu in (Gpu(), Gpu("no driver")):
        monkeypatch.setattr(registry, "find_gpu", lambda gpu=gpu: gpu)
        assert load().placement == Placement(reason="the native engine computes on the CPU")
