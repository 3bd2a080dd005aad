"""Components of the kind `graphs`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, of_module, of_object, options
from kanna.formats.onnx import (
    activation_codes,
    build,
    fp16_storage,
    graph_fixes,
    int8,
    int8_worker,
    quantize,
    smooth,
)

_KIND = "graphs"
_FILES = {
    "build": (
        build,
        "build",
        "The float32 graph of a model, made by onnxruntime-genai's model builder, unmodified",
    ),
    "mend": (
        graph_fixes,
        "mend",
        (
            "Where the model builder computes something else than the model does, and "
            "what is put in its place"
        ),
    ),
    "nbits": (
        quantize,
        "prepare",
        (
            "The float graph of a model with its matrices as MatMulNBits, and its "
            "embedding as GatherBlockQuantized"
        ),
    ),
    "halve": (
        fp16_storage,
        "halve",
        (
            "Weights stored in 16 bits and read as float32: the graph casts them back "
            "once, when it is loaded"
        ),
    ),
    "smooth": (smooth, "best", "Outliers of activations moved into the weights behind them"),
    "activations": (
        activation_codes,
        "write",
        "Codes of 16 bits between all nodes of graphs of fixed shapes, the cache among them",
    ),
    "int8": (
        int8,
        "quantize",
        "Int8 graphs, made by onnxruntime's quantizer in a process of its own",
    ),
}
_STEPS = {
    "share-embedding": (
        int8_worker.share_embedding,
        (
            "Let the embedding read the int8 columns of the head it is tied to, where "
            "the float matrix would stay for it"
        ),
    ),
    "quantize-embedding": (
        int8_worker.quantize_embedding,
        "Store embeddings that nothing else reads as int8 with a scale per row",
    ),
}
_ABOUT = {
    "calibrator": "Calibrator of static QDQ (W8A8); empty: dynamic int8",
    "include": "Patterns of the names of products that are quantized",
    "exclude": "Patterns of the names of products that stay float",
    "smoothing": "Fold outliers of activations into norms where it lowers the error",
    "encoding": "Encoding of the stored weights, of 16 bits",
}


def _find() -> Iterator[Component]:
    for name, (module, function, summary) in _FILES.items():
        named = options(
            getattr(module, function),
            only=tuple(_ABOUT),
            about=_ABOUT,
        )
        yield of_module(
            _KIND, name, module, function, summary=summary, extra=build.EXTRA, options=named
        )
    for name, (step, summary) in _STEPS.items():
        yield of_object(_KIND, name, step, summary=summary, extra=build.EXTRA)


KIND = Kind(
    summary="Graphs: how a graph of ONNX is made, and what is done to it then",
    about="Presets of ONNX decide which.",
    find=_find,
)
