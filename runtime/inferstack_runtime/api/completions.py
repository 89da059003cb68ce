"""`POST /v1/completions`: text in, text out, in OpenAI's shape (E1)."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from inferstack_runtime.api.fields import Field, Fields, bad
from inferstack_runtime.api.following import follow_all
from inferstack_runtime.api.http import Request, Response, Stream, json_response, parse_object
from inferstack_runtime.api.logprobs import completion_logprobs
from inferstack_runtime.api.parameters import HARMLESS, MAX_CHOICES, MODEL, SHARED, Generate, room, sampling_of, tokens_of
from inferstack_runtime.api.prepared import Asked
from inferstack_runtime.api.run import Delta, Run, Usage
from inferstack_runtime.api.service import Service, abandon
from inferstack_runtime.api.sse import DONE, HEARTBEAT, error_event, event
from inferstack_runtime.engines.base import LoadedModel
from inferstack_runtime.errors import ApiError, invalid
from inferstack_runtime.threads import LONG_TEXT, in_turn

MAX_PROMPTS = 64
_TOKEN = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def _prompt(value: Any, name: str) -> list[str | tuple[int, ...]]:
    expected = "a string, an array of strings, an array of token ids, or an array of arrays of token ids"
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise bad(name, expected, value)
    if _is_tokens(value):
        return [tuple(value)]
    if len(value) > MAX_PROMPTS:
        raise invalid(f"`{name}` takes at most {MAX_PROMPTS} prompts in one request.", name)
    prompts: list[str | tuple[int, ...]] = []
    for entry in value:
        if isinstance(entry, str) and isinstance(value[0], str):
            prompts.append(entry)
        elif isinstance(entry, list) and isinstance(value[0], list) and entry and _is_tokens(entry):
            prompts.append(tuple(entry))
        else:
            raise bad(name, expected, value)
    return prompts


def _is_tokens(value: list[Any]) -> bool:
    return all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in value)


FIELDS = Fields(
    (
        MODEL,
        Field(
            "prompt",
            "any",
            "Text, token ids, or an array of either.",
            required=True,
            check=_prompt,
            schema={
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS},
                    {"type": "array", "items": _TOKEN, "minItems": 1},
                    {"type": "array", "items": {"type": "array", "items": _TOKEN, "minItems": 1}, "minItems": 1, "maxItems": MAX_PROMPTS},
                ]
            },
        ),
        Field("max_tokens", "integer", "Most tokens of the answer; the context bounds it too.", 16, minimum=0, maximum=2**31 - 1),
        Field("echo", "boolean", "Begin the answer with the prompt.", False),
        Field("best_of", "integer", "Only as many as `n`: choose by `logprobs`.", minimum=1, maximum=MAX_CHOICES),
        Field("logprobs", "integer", "Report log-probabilities, with this many alternatives per token.", minimum=0, maximum=20),
        *SHARED,
    ),
    HARMLESS,
    {
        "suffix": ("the models have no fill-in-the-middle tokens", ("",)),
    },
)


async def create(service: Service, request: Request) -> Response | Stream:
    """Answer one completions request."""
    tenant, body = request.caller.tenant, await service.body(request)
    asked = service.completions.find(tenant, body)
    values = FIELDS.read(parse_object(body)) if asked is None else asked.values
    if values["best_of"] not in (None, values["n"]):
        raise invalid("`best_of` is not supported: send `n` and choose by `logprobs`.", "best_of", "unsupported_parameter")
    served = await service.model(request, values["model"])
    model = served.loaded
    if asked is None or asked.model is not model:
        generates = await in_turn(len(body) > LONG_TEXT, lambda: [_generate(values, prompt, model, tenant) for prompt in values["prompt"]])
        asked = service.completions.keep(request, body, Asked(values, model, generates))
    runs = await service.runs(request, served, asked.generates)
    writer = _Writer(runs, asked.generates, values, model, served.name, int(service.clock()))
    ready = all(run.ready for run in runs)
    if values["stream"]:
        return Stream(writer.events(service.config.http.heartbeat_seconds), lambda: abandon(runs), ready=ready)
    return json_response(await (writer.body() if ready else request.unless_disconnected(writer.body())))


def _generate(values: dict[str, Any], prompt: str | tuple[int, ...], model: LoadedModel, tenant: str) -> Generate:
    if isinstance(prompt, str):
        tokens = tokens_of(model, prompt, "prompt") or tokens_of(model, model.special_tokens.get("bos_token", ""), "prompt", False)
    else:
        tokens = prompt
        if any(token >= model.tokenizer.vocabulary_size for token in tokens):
            raise invalid(f"`prompt` holds a token id outside the model's vocabulary of {model.tokenizer.vocabulary_size}.", "prompt")
    if not tokens:
        raise invalid("`prompt` has no tokens.", "prompt")
    scored = values["echo"] and values["logprobs"] is not None
    return Generate(
        tokens,
        room(len(tokens), max(values["max_tokens"], 1), model.context, "prompt"),
        sampling_of(values, values["logprobs"], scored),
        values["n"],
        values["stop"],
        tenant,
        values["priority"],
    )


class _Writer:
    """Turns the runs of one request into a body or events."""

    def __init__(
        self, runs: Sequence[Run], generates: Sequence[Generate], values: dict[str, Any], model: LoadedModel, name: str, created: int
    ) -> None:
        self._runs = runs
        self._generates = generates
        self._values = values
        self._model = model
        self._head = {"id": f"cmpl-{runs[0].id}", "object": "text_completion", "created": created, "model": name}
        self._nothing = values["max_tokens"] == 0
        self._prompts = [self._prompt_part(generate) for generate in generates] if values["echo"] else []

    def _prompt_part(self, generate: Generate) -> tuple[str, list[int]]:
        """The prompt's text, and the offset in it at which each token begins."""
        decoder = self._model.tokenizer.decode_stream()
        text, offsets = "", []
        for token in generate.prompt:
            offsets.append(len(text))
            text += decoder.step(token) or ""
        return self._model.tokenizer.decode(generate.prompt, True), offsets

    def _choice(self, run: int, delta: Delta, first: bool) -> dict[str, Any]:
        text, entries, offsets = delta.text, delta.logprobs, list(delta.offsets)
        finish = delta.finish_reason
        if self._nothing:
            text, entries, offsets, finish = "", (), [], "length" if finish is not None else None
        logprobs = None
        if self._values["echo"]:
            prompt, prompt_offsets = self._prompts[run]
            offsets = [offset + len(prompt) for offset in offsets]
            if first:
                text = prompt + text
        if self._values["logprobs"] is not None:
            before = self._runs[run].prompt_logprobs if first and self._values["echo"] else ()
            places = [*(prompt_offsets[: len(before)] if before else []), *offsets]
            logprobs = completion_logprobs(self._model.tokenizer, [*before, *entries], places, self._generates[run].prompt)
        return {"index": run * self._values["n"] + delta.index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    @property
    def _usage(self) -> Usage:
        usages = [run.usage for run in self._runs]
        generated = 0 if self._nothing else sum(usage.generated for usage in usages)
        return Usage(sum(usage.prompt for usage in usages), generated, sum(usage.cached for usage in usages))

    async def body(self) -> dict[str, Any]:
        """The complete answer."""
        choices: dict[int, list[dict[str, Any]]] = {}
        async with aclosing(follow_all(self._runs, 3600)) as news:
            async for run, deltas in news:
                for delta in deltas:
                    parts = choices.setdefault(run * self._values["n"] + delta.index, [])
                    parts.append(self._choice(run, delta, not parts))
        return {**self._head, "choices": [_merge(choices[index]) for index in sorted(choices)], "usage": self._usage.to_json()}

    async def events(self, heartbeat: float) -> AsyncGenerator[bytes, None]:
        """The answer as events."""
        options = self._values["stream_options"] or {}
        head: dict[str, Any] = {**self._head, **({"usage": None} if options.get("include_usage") else {})}
        begun: set[int] = set()
        try:
            async with aclosing(follow_all(self._runs, heartbeat)) as news:
                async for run, deltas in news:
                    if not deltas:
                        yield HEARTBEAT
                        continue
                    blocks = []
                    for delta in deltas:
                        index = run * self._values["n"] + delta.index
                        blocks.append(event({**head, "choices": [self._choice(run, delta, index not in begun)]}))
                        begun.add(index)
                    yield b"".join(blocks)
        except ApiError as error:
            yield error_event(error)
            return
        if options.get("include_usage"):
            yield event({**self._head, "choices": [], "usage": self._usage.to_json()})
        yield DONE


def _merge(parts: list[dict[str, Any]]) -> dict[str, Any]:
    whole = dict(parts[0])
    whole["text"] = "".join(part["text"] for part in parts)
    whole["finish_reason"] = parts[-1]["finish_reason"]
    if whole["logprobs"] is not None:
        whole["logprobs"] = {key: [entry for part in parts for entry in part["logprobs"][key]] for key in whole["logprobs"]}
    return whole
