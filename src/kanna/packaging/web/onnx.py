"""ONNX folders in a browser: transformers.js over onnxruntime-web."""

from __future__ import annotations

from typing import Any

from kanna._util.typed import text, whole
from kanna.errors import UnsupportedError
from kanna.escaping import json_text
from kanna.formats.text_files import read_object
from kanna.packaging.artefact import Artefact
from kanna.packaging.libraries import NpmLibrary
from kanna.packaging.web.base import BrowserEngine

_CONFIG, _GENAI = "config.json", "genai_config.json"
_COPIED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def _described(artefact: Artefact) -> tuple[dict[str, Any], dict[str, str]]:
    """The graph's files, and config.json as transformers.js reads it, where there is none."""
    path = artefact.files.get(f"{artefact.place}/{_GENAI}")
    if path is None:
        raise UnsupportedError(
            f"{artefact.name} has no {_GENAI}: it is not a model that writes",
            expected="a folder that kanna convert wrote of a model that predicts tokens",
        )
    genai = read_object(path).part("model")
    decoder = genai.part("decoder")
    if "pipeline" in decoder:
        raise UnsupportedError(
            f"{artefact.name} has graphs of fixed shapes, which transformers.js does not run",
            expected="a folder that `kanna convert` wrote without --static",
        )
    graph = decoder.get("filename", text(256), "model.onnx")
    place = f"{artefact.place}/"
    inside = sorted(p.removeprefix(place) for p in artefact.files)
    data = [name for name in inside if name.startswith(f"{graph}.") or name == f"{graph}_data"]
    head = decoder.need("head_size", whole(1))
    config: dict[str, Any] = {"model_type": genai.get("type", text(64), "llama"), "head_dim": head}
    config |= {key: decoder.need(key, whole(1)) for key in _COPIED}
    config |= {
        "vocab_size": genai.need("vocab_size", whole(1)),
        "max_position_embeddings": genai.need("context_length", whole(1)),
    }
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if key in genai:
            config[key] = genai.values[key]
    missing = {} if _CONFIG in inside else {f"{place}{_CONFIG}": json_text(config) + "\n"}
    return {"graph": graph, "data": data, "head_size": head}, missing


BROWSER = BrowserEngine(
    summary="transformers.js over onnxruntime-web",
    script="transformers.js",
    libraries=(
        NpmLibrary(
            package="@huggingface/transformers",
            version="4.3.2",
            licence="Apache-2.0",
            files={
                "dist/transformers.min.js": "lib/transformers/transformers.min.js",
                "LICENSE": "lib/transformers/LICENSE",
            },
        ),
        # The version that transformers.js was built with: the two only fit together.
        NpmLibrary(
            package="onnxruntime-web",
            version="1.31.0-dev.20260914-8d85527a0",
            licence="MIT",
            files={
                f"dist/ort-wasm-simd-threaded.asyncify.{kind}": (
                    f"lib/transformers/ort-wasm-simd-threaded.asyncify.{kind}"
                )
                for kind in ("mjs", "wasm")
            },
        ),
    ),
    described=_described,
)
