"""Encoders behind the gateway: vectors and ranks, by the official client and by plain requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from helpers import needs, tiny_encoders
from helpers.gateways import Local, local

import kanna
from kanna.runtimes.llamacpp import RUNTIME

needs.llama_cpp()
for _package in ("torch", "transformers", "xllamacpp"):
    pytest.importorskip(_package)
TEXTS = ["the quick brown fox", "a small model", "write code", "hello in many languages"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny_encoders.make("bert", folder)
    named = {"prompts": {"query": "find: ", "passage": "text: "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(named))
    kanna.convert(folder, folder / "encoder.gguf", preset="F32", threads=1)
    return folder / "encoder.gguf"


@pytest.fixture(scope="module")
def gateway(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(encoder, tmp_path_factory.mktemp("gateway"), slots=2, replay=False) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Local) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def expected(encoder: Path) -> np.ndarray:
    with RUNTIME.open_encoder(encoder, threads=1) as engine:
        return engine.embed(TEXTS)


def vectors_of(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    return np.array([entry.embedding for entry in answer.data], np.float32)


def test_vectors_are_those_of_the_file(client: openai.OpenAI, expected: np.ndarray) -> None:
    """Several texts at once; the client itself asks for base64 where nothing else is said."""
    plain = client.embeddings.create(model="m", input=TEXTS, encoding_format="float")
    packed = client.embeddings.create(model="m", input=TEXTS)
    one = client.embeddings.create(model="m", input=TEXTS[1])
    assert [entry.index for entry in plain.data] == [0, 1, 2, 3]
    for answer in (vectors_of(plain), vectors_of(packed)):
        assert (answer * expected).sum(1).min() > 0.99999
    assert (vectors_of(one) * expected[1]).sum() > 0.99999
    assert plain.usage.prompt_tokens > one.usage.prompt_tokens > 2


def test_prompts_of_the_model_go_before_texts(client: openai.OpenAI) -> None:
    def vector(text: str, **more: str) -> np.ndarray:
        answer = client.embeddings.create(model="m", input=text, extra_body=more)
        return vectors_of(answer)[0]

    asked = vector("find: a tool")
    for more in ({"prompt_name": "query"}, {"input_type": "query"}, {"input_type": "search_query"}):
        assert vector("a tool", **more) @ asked > 0.99999
    assert vector("a tool") @ asked < 0.99999
    assert vector("a tool", input_type="document") @ vector("text: a tool") > 0.99999
    for more in ({"prompt_name": "none"}, {"input_type": "image"}):
        with pytest.raises(openai.BadRequestError, match="query.*passage"):
            vector("a tool", **more)
    with pytest.raises(openai.BadRequestError, match="token ids"):
        client.embeddings.create(model="m", input=[5, 6], extra_body={"prompt_name": "query"})


def test_langchain_reads_them(gateway: Local, expected: np.ndarray) -> None:
    """By texts: left to itself it sends ids of OpenAI's own vocabulary."""
    langchain = pytest.importorskip("langchain_openai")
    embeddings = langchain.OpenAIEmbeddings(
        model="m", base_url=gateway.url + "/v1", api_key="none", check_embedding_ctx_length=False
    )
    made = np.array(embeddings.embed_documents(TEXTS), np.float32)
    assert (made * expected).sum(1).min() > 0.99999


@pytest.mark.parametrize("form", ["float", "base64"])
def test_dimensions_cut_vectors_and_give_them_length_1_again(
    gateway: Local, expected: np.ndarray, form: str
) -> None:
    body = {"input": TEXTS, "dimensions": 16, "encoding_format": form}
    status, answer = gateway.post("/v1/embeddings", body)
    assert status == 200
    rows = [entry["embedding"] for entry in answer["data"]]
    if form == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    made = np.array(rows, np.float32)
    wanted = expected[:, :16] / np.linalg.norm(expected[:, :16], axis=1, keepdims=True)
    assert made.shape == (4, 16) and np.abs(made - wanted).max() < 1e-3


def test_texts_are_ranked_by_their_cosine(gateway: Local, expected: np.ndarray) -> None:
    query, *texts = TEXTS
    body = {"query": query, "documents": [texts[0], {"text": texts[1]}, texts[2]]}
    status, answer = gateway.post("/v1/rerank", body | {"top_n": 2, "return_documents": True})
    assert status == 200 and answer["usage"]["prompt_tokens"] > 0
    cosines = expected[1:] @ expected[0]
    order = np.argsort(-cosines)[:2].tolist()
    assert [result["index"] for result in answer["results"]] == order
    assert [r["document"]["text"] for r in answer["results"]] == [texts[i] for i in order]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == pytest.approx(cosines[order].tolist(), abs=1e-3)
    status, answer = gateway.post("/v1/rerank", body)
    assert status == 200 and len(answer["results"]) == 3
    assert "document" not in answer["results"][0]


REFUSED = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "vectors"),
    "completion": ("/v1/completions", {"prompt": "hi"}, "vectors"),
    "too wide": ("/v1/embeddings", {"input": "a", "dimensions": 97}, "96"),
    "too long": ("/v1/embeddings", {"input": "fox " * 300}, "too large"),
    "nothing": ("/v1/embeddings", {"input": []}, "input"),
    "no texts": ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
    "no question": ("/v1/rerank", {"documents": ["a"]}, "query"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_it_cannot_do_is_said(gateway: Local, what: str) -> None:
    path, body, says = REFUSED[what]
    status, answer = gateway.post(path, body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error"), answer
    assert says in answer["error"]["message"]


def test_it_is_one_process_and_counts_tokens(gateway: Local) -> None:
    assert gateway.post("/v1/embeddings", {"input": "a"})[0] == 200
    status, answer = gateway.post("/tokenize", {"content": "the fox"})
    assert status == 200 and answer["tokens"]
    [state] = gateway.pool.status()
    assert state["helpers"] == [] and state["state"] == "ready"


@pytest.mark.parametrize("name", ["xlm-r-rank", "qwen3-reranker"])
def test_rerankers_give_the_scores_of_transformers(name: str, tmp_path: Path) -> None:
    """The server puts question and text together as the model was trained to read them."""
    from kanna import families
    from kanna.sources import open_source
    from kanna.verification import ranks

    folder, path = tmp_path / "model", tmp_path / "model.gguf"
    folder.mkdir()
    tiny_encoders.make(name, folder)
    kanna.convert(folder, path, preset="F32", threads=1)
    source = open_source(folder)
    model, query = families.load_model(source), "what is quick"
    ids = [ranks.pair_ids(source, model, query, text) for text in TEXTS]
    expected = ranks.in_transformers(source, model, ids)
    with local(path, tmp_path, slots=2, replay=False) as running:
        status, answer = running.post("/v1/rerank", {"query": query, "documents": TEXTS})
        assert status == 200, answer
        scores = {r["index"]: r["relevance_score"] for r in answer["results"]}
        order = [r["index"] for r in answer["results"]]
        for route, body in {
            "/v1/embeddings": {"input": "a"},
            "/v1/completions": {"prompt": "a"},
        }.items():
            status, answer = running.post(route, body)
            assert status == 400 and "scores" in answer["error"]["message"]
    spread = float(np.ptp(expected))
    assert [scores[i] for i in range(4)] == pytest.approx(expected.tolist(), abs=0.03 * spread)
    assert order == np.argsort(-expected).tolist()
