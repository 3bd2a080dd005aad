"""A Hugging Face folder loaded by transformers in float32."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import FormatError
from kanna.model import F32
from kanna.runtimes.folder_text import FolderText, read_json
from kanna.runtimes.stepped import SteppedEngine

_TALKATIVE = ("torchao", "torch.utils._pytree")
"""Loggers of what transformers imports where it is installed, and that no model of ours needs."""


class TorchEngine(SteppedEngine):
    """One model; see `Engine`."""

    def __init__(
        self, torch: Any, transformers: Any, path: Path, *, context: int, threads: int
    ) -> None:
        self._torch, self._transformers = torch, transformers
        torch.set_num_threads(threads)
        with quiet(transformers):
            try:
                self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    str(path), dtype=torch.float32, local_files_only=True, trust_remote_code=False
                ).eval()
            except (
                ImportError,
                ValueError,
                KeyError,
                OSError,
                RuntimeError,
                AttributeError,
                AssertionError,
            ) as error:
                raise FormatError(f"transformers cannot load {path}: {error}"[:500]) from error
        # transformers renames the argument: the new name where it is known, or it warns at every
        # call.
        names = inspect.signature(self._model.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        self._cache: Any = None
        self._length = 0
        config = self._model.config
        super().__init__(
            path,
            FolderText(path, [read_json(path / "config.json")]),
            vocab_size=int(config.vocab_size),
            trained_context=int(getattr(config, "max_position_embeddings", 0) or 0),
            context=context,
            threads=threads,
        )
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            self.rope_edge = int(rope["original_max_position_embeddings"])

    def forward(self, ids: Sequence[int], keep: int) -> F32:
        """Logits after the last `keep` of `ids`; see `SteppedEngine`."""
        torch = self._torch
        if self._cache is None:
            self._cache = self._transformers.DynamicCache(config=self._model.config)
        with torch.inference_mode():
            # To keep 0 would mean all of them.
            out = self._model(
                input_ids=torch.tensor([list(ids)]),
                use_cache=True,
                logits_to_keep=max(1, keep),
                **{self._cache_name: self._cache},
            )
        self._length += len(ids)
        rows: F32 = out.logits[0].float().numpy()
        return rows if keep else rows[:0]

    def largest_activations(self, ids: Sequence[int]) -> dict[str, float]:
        """The largest magnitude that each part of the model gives while it reads `ids`."""
        largest: dict[str, float] = {}

        def note(name: str) -> Any:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                value = output[0] if isinstance(output, tuple) else output
                if self._torch.is_tensor(value) and value.is_floating_point() and value.numel():
                    largest[name] = max(largest.get(name, 0.0), float(value.abs().max()))

            return hook

        hooks = [m.register_forward_hook(note(n)) for n, m in self._model.named_modules() if n]
        try:
            self.logits(ids)
        finally:
            for hook in hooks:
                hook.remove()
        return largest

    def rewind(self, length: int) -> int:
        """Keep the first `length` tokens of the cache, where it can go back."""
        # Layers with a window forget what left it, and cannot go back.
        if (
            length == 0
            or self._cache is None
            or any(getattr(x, "is_sliding", False) for x in self._cache.layers)
        ):
            if self._length != length or length == 0:
                self._cache, self._length = None, 0
        elif length < self._length:
            self._cache.crop(length - self._length)  # how many go, below 0
            self._length = length
        return self._length

    def memory(self) -> dict[str, int]:
        """Bytes of the weights, and of the cache for the whole context."""
        weights = sum(p.numel() * p.element_size() for p in self._model.parameters())
        config = self._model.config.get_text_config()
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        size = int(
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        cache = 2 * 4 * int(config.num_hidden_layers) * heads * size * self.context
        return {
            "weights": int(weights),
            "kv": cache,
            "output": int(np.dtype(np.float32).itemsize) * self.vocab_size,
        }

    def free(self) -> None:
        """Let go of the model."""
        self._model = self._cache = None


@contextmanager
def quiet(transformers: Any) -> Generator[None, None, None]:
    """Keep transformers, and what it loads, from printing warnings and progress meanwhile."""
    log = transformers.utils.logging
    others = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [other.level for other in others]
    for other in others:
        other.setLevel(logging.ERROR)
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        for other, before in zip(others, levels, strict=True):
            other.setLevel(before)
        if bars:
            log.enable_progress_bar()
