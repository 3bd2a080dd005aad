"""Vectors and ranks: which process answers, in the shape that the client asked for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.model import F32
from kanna.serving import text_prompts
from kanna.serving.engines.base import EMBED, GENERATE, RANK
from kanna.serving.model_call import ModelCall
from kanna.serving.problems import ApiError
from kanna.serving.served_model import ServedModel

EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """How a request is answered.

    Attributes:
        role: Of the process that is asked; None: the one that generates.
        finish: The engine's answer → the client's.
    """

    role: str | None = None
    finish: Callable[[bytes], bytes] = bytes


def plain(_: ModelCall) -> Exchange:
    """The engine's answer as it is, by the process that every model has."""
    return Exchange()


def require_text(model: ServedModel) -> None:
    """Raise ApiError 400 for a model that generates none."""
    if model.role != GENERATE:
        what, route = ("scores", "/v1/rerank") if model.role == RANK else ("vectors", EMBEDDINGS)
        raise ApiError(
            400,
            f"{model.name!r} makes {what} of texts and generates none: POST {route}",
            param="model",
            code="model_without_text",
        )


def embeddings(call: ModelCall) -> Exchange:
    """Vectors, cut to `dimensions` where the client asks for fewer.

    Raises:
        ApiError: 400: the model makes scores, or was not made for vectors and they are to be cut.
    """
    model, body = call.model, call.body
    if model.role == RANK:
        raise ApiError(
            400, f"{model.name!r} makes scores, no vectors: POST /v1/rerank", param="model"
        )
    text_prompts.put(model.spec.path, body)
    dimensions = body.pop("dimensions", None)
    if dimensions is None:
        return Exchange(role=EMBED)
    if model.role == GENERATE:
        raise ApiError(
            400,
            f"dimensions: {model.name!r} generates text, and its vectors are not shortened here: "
            "leave it out",
            param="dimensions",
        )
    packed = body.pop("encoding_format", "float") == "base64"
    return Exchange(role=EMBED, finish=lambda data: shortened(data, dimensions, packed=packed))


def ranks(call: ModelCall) -> Exchange:
    """Texts by how well they answer a question: the model's own scores, or cosines of its vectors.

    Raises:
        ApiError: 400: the model generates text.
    """
    model, body = call.model, call.body
    texts: list[str] = body["documents"]
    count = min(body.pop("top_n", None) or len(texts), len(texts))
    shown = bool(body.pop("return_documents", None))
    if model.role == GENERATE:
        raise ApiError(
            400,
            f"{model.name!r} generates text: it was not made to rank any",
            param="model",
            code="model_without_ranks",
        )
    if model.role == RANK:
        return Exchange(role=RANK, finish=lambda data: _best(_scores(data), texts, count, shown))
    call.path = EMBEDDINGS
    call.body = {"model": body["model"], "input": [body["query"], *texts]}
    return Exchange(role=EMBED, finish=lambda data: _best(_cosines(data), texts, count, shown))


def shortened(data: bytes, dimensions: int, *, packed: bool) -> bytes:
    """An answer with vectors of fewer numbers, of length 1 again.

    Args:
        data: The engine's answer, with numbers.
        dimensions: Numbers of each.
        packed: Whether they are written as base64 of float32.

    Raises:
        ApiError: 400: they have fewer.
    """
    answer = json.loads(data)
    for entry in answer["data"]:
        whole = np.array(entry["embedding"], np.float32)
        if dimensions > len(whole):
            raise ApiError(
                400,
                f"dimensions: {dimensions} are asked for, the model's vectors have {len(whole)}",
                param="dimensions",
            )
        vector = _normalized(whole[:dimensions])
        entry["embedding"] = (
            base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()
        )
    return json.dumps(answer).encode()


def _normalized(vector: F32) -> F32:
    length = float(np.linalg.norm(vector))
    return (vector / length).astype("<f4") if length else vector.astype("<f4")


def _scores(data: bytes) -> tuple[dict[str, Any], Sequence[float]]:
    """An answer of ranks, and the score of every text in the order they were sent in."""
    answer = json.loads(data)
    by_index = {int(r["index"]): float(r["relevance_score"]) for r in answer["results"]}
    return answer, [by_index[i] for i in range(len(by_index))]


def _cosines(data: bytes) -> tuple[dict[str, Any], Sequence[float]]:
    """An answer of vectors, and the cosine of the first with each of the others."""
    answer = json.loads(data)
    question, *texts = (
        _normalized(np.array(entry["embedding"], np.float32)) for entry in answer["data"]
    )
    return answer, [float(question @ text) for text in texts]


def _best(
    scored: tuple[dict[str, Any], Sequence[float]], texts: Sequence[str], count: int, shown: bool
) -> bytes:
    """The best texts first, in the shape that Jina's and Cohere's clients read."""
    answer, scores = scored
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[:count]
    results = [
        {"index": i, "relevance_score": scores[i]}
        | ({"document": {"text": texts[i]}} if shown else {})
        for i in order
    ]
    ranked = {"object": "list", "model": answer.get("model"), "results": results}
    return json.dumps(ranked | {"usage": answer.get("usage", {})}).encode()
