"""LlamaIndex' class for servers that are like OpenAI's, unmodified; prints what worked.  llamaindex.py URL"""

import asyncio
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

COMMON = {"model": "fake", "api_base": f"{sys.argv[1]}/v1", "api_key": "any", "temperature": 0}


class City(BaseModel):
    name: str
    country: str


def main() -> None:
    model, asked = OpenAILike(**COMMON, is_chat_model=True, context_window=2048), [ChatMessage(role="user", content="hello")]
    whole = model.chat(asked).message.content
    assert whole
    print("chat")
    assert "".join(part.delta or "" for part in model.stream_chat(asked)) == whole
    print("stream")
    structured = model.model_copy(update={"should_use_structured_outputs": True})
    assert isinstance(structured.as_structured_llm(City).chat(asked).raw, City)
    print("structured")
    text = OpenAILike(**COMMON, is_chat_model=False, max_tokens=5)
    assert text.complete("hello").text
    assert "".join(part.delta or "" for part in text.stream_complete("hello")) == text.complete("hello").text
    print("text")
    assert asyncio.run(model.achat(asked)).message.content == whole
    print("asynchronous")


main()
