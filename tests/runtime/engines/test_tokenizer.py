"""Long texts: divided as short ones are, and while they are, other threads go on."""

import threading
import time

import pytest

from inferstack_runtime.api.parameters import tokens_of
from inferstack_runtime.engines.base import LoadedModel
from inferstack_runtime.errors import ApiError

TEXT = "The 42 châteaux of the Loire — 好き 😀\n\n    indented\tand   spaced. "


def test_a_long_text_has_the_tokens_of_its_parts(loaded: LoadedModel) -> None:
    encode = loaded.tokenizer.encode
    assert encode(TEXT * 400, False) == encode(TEXT, False)[:-1] + (encode(" " + TEXT, False)[:-1]) * 399 + encode(" ", False)


def test_other_threads_go_on_meanwhile(loaded: LoadedModel) -> None:
    over, longest = threading.Event(), [0.0]

    def watch() -> None:
        last = time.perf_counter()
        while not over.wait(0.002):
            now = time.perf_counter()
            longest[0], last = max(longest[0], now - last), now

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    loaded.tokenizer.encode("Hello world, this is text. " * 20_000)
    took = time.perf_counter() - begin
    over.set()
    watcher.join()
    assert longest[0] < took / 3


def test_a_text_that_cannot_fit_is_refused_before_it_is_divided(loaded: LoadedModel) -> None:
    begin = time.process_time()
    with pytest.raises(ApiError, match="context is 512") as refused:
        tokens_of(loaded, "word " * 800_000, "prompt")
    assert refused.value.code == "context_length_exceeded"
    assert time.process_time() - begin < 1
    assert len(tokens_of(loaded, " " * 60 * 500, "prompt")) < 512, "many characters, few tokens"
