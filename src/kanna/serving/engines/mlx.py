"""MLX: a folder that mlx-lm loads, run with its continuous batching."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from kanna.serving.engines.base import GENERATE, SCORE, EngineConfig, Footprint

INSTALL = "pip install 'kanna[mlx]'"
_PIECE = 512
"""Rows of logits that buffers are counted for."""


class Mlx:
    name = "mlx"
    extra = "mlx"
    modules = ("mlx_lm", "kanna.serving.engines._openai")
    forces_calls = True
    roles = (GENERATE, SCORE)
    apart = ()

    def accepts(self, path: Path) -> bool:
        if not (path / "config.json").is_file() or (path / "genai_config.json").is_file():
            return False
        return any(path.glob("*.safetensors"))

    def missing(self) -> str:
        return "" if importlib.util.find_spec("mlx_lm") else INSTALL

    def footprint(self, config: EngineConfig) -> Footprint:
        """Files of weights; a cache per slot and one to score in, in 16 bits.

        Logits of a piece of prompt.
        """
        folder = Path(config.path)
        model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = {**model, **model.get("text_config", {})}
        heads = int(model.get("num_attention_heads", 1))
        kv = int(model.get("num_key_value_heads") or heads)
        head = int(model.get("head_dim") or model.get("hidden_size", 0) // heads)
        row = 2 * 2 * int(model.get("num_hidden_layers", 0)) * kv * head
        weights = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
        cache = row * config.context * (config.slots + 1)
        return Footprint(
            weights=weights, cache=cache, buffers=2 * 4 * _PIECE * int(model.get("vocab_size", 0))
        )

    def run(self, config: EngineConfig) -> None:
        from kanna.serving.engines._jobs import Worker
        from kanna.serving.engines._mlx_jobs import MlxJobs
        from kanna.serving.engines._openai import Routes
        from kanna.serving.engines._text import Text

        folder = Path(config.path)
        eos: set[int] = set()
        for name in ("config.json", "generation_config.json"):
            if (folder / name).is_file():
                given = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
                eos |= set(given if isinstance(given, list) else [] if given is None else [given])
        text = Text(folder, sorted(eos))
        worker = Worker(lambda: MlxJobs(folder, config))
        Routes(config, worker, text).serve("mlx-lm")


ENGINE = Mlx()
