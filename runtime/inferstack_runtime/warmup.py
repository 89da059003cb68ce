"""Warm-up: a model answers one short request before the process says it is ready."""

from inferstack_runtime.api.parameters import Generate
from inferstack_runtime.api.service import Service
from inferstack_runtime.engines.base import ModelLoadError, Sampling
from inferstack_runtime.errors import ApiError
from inferstack_runtime.lifecycle.models import Served

_TEXT = "The quick brown fox jumps over the lazy dog. "


async def warm_up(service: Service, served: Served) -> None:
    """Run a prompt of a few lengths through the model; raises ModelLoadError when it does not answer."""
    tokenizer = served.loaded.tokenizer
    for repeat in (1, 16):
        prompt = tuple(tokenizer.encode(_TEXT * repeat))[: max(1, served.loaded.context - 4)]
        generate = Generate(prompt, 2, Sampling(temperature=0.0, ignore_eos=True), tenant="(warm-up)")
        try:
            await service.fly(served, generate, ()).answer()
        except ApiError as error:
            raise ModelLoadError(f"{served.name}: no answer to the warm-up request: {error.message}") from None
