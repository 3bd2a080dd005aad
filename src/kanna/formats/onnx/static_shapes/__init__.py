"""Graphs of fixed shapes, as NPUs need them: one that reads a chunk of a prompt, one for a token.

Both read the same external data, and a cache of fixed length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna.errors import UsageError
from kanna.formats.onnx import files
from kanna.formats.onnx.build import GENAI, GRAPH
from kanna.formats.onnx.static_shapes import graph
from kanna.formats.onnx.static_shapes.positions import PAST, TOTAL

PREFILL, DECODE = "prefill.onnx", "decode.onnx"
_SHAPE = re.compile(r"(\d{1,6})x(\d{1,8})")


@dataclass(frozen=True, slots=True)
class StaticShape:
    """The fixed shapes of a model's graphs.

    Attributes:
        chunk: Tokens of a prompt that are read at once.
        context: Tokens that the cache has room for.
    """

    chunk: int
    context: int

    @classmethod
    def parse(cls, words: str) -> StaticShape:
        """The shape that a text such as 64x2048 means: chunk × context.

        Raises:
            UsageError: It is none, or chunks do not fill the context.
        """
        match = _SHAPE.fullmatch(words.strip().lower().replace("×", "x"))
        if match is None:
            raise UsageError(f"{words!r} is no shape", expected="CHUNKxCONTEXT, such as 64x2048")
        shape = cls(int(match[1]), int(match[2]))
        if shape.chunk < 2 or shape.context < 2 * shape.chunk or shape.context % shape.chunk:
            raise UsageError(
                f"chunks of {shape.chunk} tokens in a context of {shape.context}",
                expected="chunks of 2 tokens or more, of which the context holds a whole number,"
                " two or more",
                todo="such as 64x2048",
            )
        return shape

    def __str__(self) -> str:
        return f"{self.chunk}x{self.context}"


def wanted(words: str | None, config: Mapping[str, Any]) -> StaticShape | None:
    """The shape that `words` mean for a model; None for None.

    Args:
        words: CHUNKxCONTEXT.
        config: config.json of the model.

    Raises:
        UsageError: They are no shape, or its context is longer than the model's.
    """
    if words is None:
        return None
    shape, trained = StaticShape.parse(words), int(config["max_position_embeddings"])
    if shape.context > trained:
        raise UsageError(
            f"a context of {shape.context} tokens", expected=f"at most {trained}, the model's own"
        )
    return shape


def fix(folder: Path, shape: StaticShape) -> None:
    """Replace the dynamic graph of a complete folder by two of fixed shapes.

    genai_config.json gets the pipeline of both, as onnxruntime-genai runs it.

    Raises:
        UnsupportedError: The graph has no form of fixed shapes.
    """
    model = files.load(folder / GRAPH)
    genai = json.loads((folder / GENAI).read_text(encoding="utf-8"))
    decoder = genai["model"]["decoder"]
    names = decoder["inputs"] | decoder["outputs"]
    made: dict[str, Any] = {
        name: graph.fixed(
            model,
            chunk=chunk,
            context=shape.context,
            names=names,
            size=int(decoder["head_size"]),
        )
        for name, chunk in ((PREFILL, shape.chunk), (DECODE, 1))
    }
    for name, fixed in made.items():
        (folder / name).write_bytes(fixed.SerializeToString())
    (folder / GRAPH).unlink()
    described = json.dumps(pipeline(genai, made, shape), indent=4)
    (folder / GENAI).write_text(described, encoding="utf-8")


def pipeline(
    genai: Mapping[str, Any], made: Mapping[str, Any], shape: StaticShape
) -> dict[str, Any]:
    """genai_config.json of both graphs, as onnxruntime-genai's decoder-pipeline reads it.

    Args:
        genai: That of the dynamic graph.
        made: onnx.ModelProto of both by file name.
        shape: Their shapes.
    """
    model, search = dict(genai["model"]), dict(genai["search"])
    decoder = {k: v for k, v in model["decoder"].items() if k != "filename"}
    decoder["inputs"] = {
        k: v for k, v in decoder["inputs"].items() if k not in ("attention_mask", "position_ids")
    } | {"past_sequence_length": PAST, "total_sequence_length": TOTAL}
    # Prompts are padded on their right; keys and values stay where they are.
    decoder["sliding_window"] = {
        "window_size": shape.chunk,
        "pad_value": 0,
        "alignment": "left",
        "slide_key_value_cache": False,
    }
    stages = {
        Path(name).stem: {
            "filename": name,
            "inputs": [i.name for i in fixed.graph.input],
            "outputs": [o.name for o in fixed.graph.output],
            "run_on_prompt" if name == DECODE else "run_on_token_gen": False,
        }
        for name, fixed in made.items()
    }
    decoder["pipeline"] = [stages]
    model |= {"type": "decoder-pipeline", "context_length": shape.context, "decoder": decoder}
    search |= {"max_length": shape.context, "past_present_share_buffer": True, "num_beams": 1}
    return {**genai, "model": model, "search": search}
