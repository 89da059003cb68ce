from fake_engine import ByteTokenizer
from hypothesis import given
from hypothesis import strategies as st

from inferstack_runtime.api.text import TextAssembler
from inferstack_runtime.engines.base import TokenLogprobs


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=5), max_size=3), st.lists(st.integers(1, 7), min_size=1, max_size=20))
def test_pieces_are_the_text_up_to_the_first_stop_string(text, stops, sizes):
    tokens = list(text.encode())
    assembler = TextAssembler(ByteTokenizer(), stops)
    sent, at, turn = "", 0, 0
    while at < len(tokens):
        size = sizes[turn % len(sizes)]
        piece = assembler.push(tokens[at : at + size], [TokenLogprobs(token, -1.0) for token in tokens[at : at + size]])
        assert len(piece.logprobs) == len(piece.offsets)
        assert all(offset < len(sent) + len(piece.text) for offset in piece.offsets)
        sent += piece.text
        assert not any(stop in sent for stop in stops)
        at, turn = at + size, turn + 1
    sent += assembler.finish().text
    ends = [found for stop in stops if (found := text.find(stop)) >= 0]
    first_complete = min((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)[1] if ends else len(text)
    assert sent == text[:first_complete]


def test_text_that_may_become_a_stop_string_is_held_back():
    assembler = TextAssembler(ByteTokenizer(), ["\n\nUser:"])
    assert assembler.push(b"Hello\n\nUse").text == "Hello"
    assert assembler.push(b"d car").text == "\n\nUsed car"


def test_bytes_that_never_become_a_character_are_replaced():
    assembler = TextAssembler(ByteTokenizer())
    assert assembler.push(b"ok \xe2\x82").text == "ok "
    assert assembler.finish().text.startswith("\ufffd") or assembler.finish().text == ""
