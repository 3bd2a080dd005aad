"""ONNX: a folder that onnxruntime-genai loads, run in onnxruntime with continuous batching."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from kanna.serving.engines.base import GENERATE, SCORE, EngineConfig, Footprint

INSTALL = "pip install onnxruntime"
_PIECE = 256
"""Rows of activations that buffers are counted for: a prompt is read in such pieces."""


class Onnx:
    name = "onnx"
    extra = "onnx"
    modules = ("onnxruntime", "kanna.serving.engines._openai")
    forces_calls = True
    roles = (GENERATE, SCORE)
    apart = ()

    def accepts(self, path: Path) -> bool:
        return path.is_dir() and (path / "genai_config.json").is_file()

    def missing(self) -> str:
        return "" if importlib.util.find_spec("onnxruntime") else INSTALL

    def footprint(self, config: EngineConfig) -> Footprint:
        """Files of weights; a cache per slot and one to score in, in float32.

        Activations of a piece of prompt.
        """
        folder = Path(config.path)
        model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        decoder = model["decoder"]
        weights = sum(p.stat().st_size for p in folder.iterdir() if p.suffix in {".onnx", ".data"})
        row = (
            2
            * 4
            * decoder["num_hidden_layers"]
            * decoder["num_key_value_heads"]
            * decoder["head_size"]
        )
        cache = row * min(config.context, model["context_length"]) * (config.slots + 1)
        return Footprint(
            weights=weights, cache=cache, buffers=2 * 4 * _PIECE * int(model["vocab_size"])
        )

    def run(self, config: EngineConfig) -> None:
        from kanna.hardware.cpu import default_threads
        from kanna.serving.engines._jobs import Worker
        from kanna.serving.engines._onnx_batch import OnnxBatch
        from kanna.serving.engines._onnx_jobs import OnnxJobs
        from kanna.serving.engines._openai import Routes
        from kanna.serving.engines._text import Text

        folder = Path(config.path)
        model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        eos = model.get("eos_token_id", [])
        text = Text(folder, eos if isinstance(eos, list) else [eos])
        threads = config.threads or default_threads()

        def make() -> OnnxJobs:
            # A row more than there are slots: prompts are scored in it.
            rows = OnnxBatch(
                folder, context=config.context, slots=config.slots + 1, threads=threads
            )
            return OnnxJobs(rows, config.slots)

        worker = Worker(make)
        Routes(config, worker, text).serve("onnxruntime")


ENGINE = Onnx()
