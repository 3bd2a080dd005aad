"""An MLX folder loaded by mlx-lm, with mlx-lm's own cache.

On a CPU activations are float32: mlx emulates half precision there, at a fortieth of the speed.
Codes stay packed, and scales and biases become the float32 values that they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import FormatError
from kanna.model import F32
from kanna.runtimes.folder_text import FolderText, read_json
from kanna.runtimes.stepped import SteppedEngine


class MlxEngine(SteppedEngine):
    """One model; see `Engine`.

    mlx has no setting for threads: `threads` is what was asked for.
    """

    def __init__(self, mx: Any, mlx_lm: Any, path: Path, *, context: int, threads: int) -> None:
        from mlx.utils import tree_flatten

        self._mx = mx
        self._config: dict[str, Any]
        self._caches: Any = mlx_lm.models.cache
        # Before the weights are there, beside which its text would lie while it is read.
        text = FolderText(path, [read_json(path / "config.json")])
        self.on_cpu = mx.default_device().type == mx.DeviceType.cpu
        try:
            loaded: Any = mlx_lm.utils.load_model(path, lazy=True)
            self._model: Any = loaded[0]
            if self.on_cpu:
                self._model.set_dtype(mx.float32)
            # Read and converted one by one: all at once would be there in both types.
            for _, tensor in tree_flatten(self._model.parameters()):
                mx.eval(tensor)
                mx.clear_cache()
        except (
            ImportError,
            ValueError,
            KeyError,
            OSError,
            RuntimeError,
            TypeError,
            AttributeError,
        ) as error:
            raise FormatError(
                f"mlx-lm cannot load {path}: {error}"[:500], todo="convert again"
            ) from error
        config = loaded[1]
        inner = config.get("text_config")  # of models of text inside larger ones
        self._config = config | inner if isinstance(inner, dict) else config
        self._cache: list[Any] = []
        self._length = 0
        super().__init__(
            path,
            text,
            vocab_size=int(self._config.get("vocab_size") or 0),
            trained_context=int(self._config.get("max_position_embeddings") or 0),
            context=context,
            threads=threads,
        )

    def forward(self, ids: Sequence[int], keep: int) -> F32:
        """Logits after the last `keep` of `ids`; see `SteppedEngine`."""
        mx = self._mx
        if not self._cache:
            self._cache = self._caches.make_prompt_cache(self._model)
        read, scored = ids[: len(ids) - keep], ids[len(ids) - keep :]
        if read:
            # Logits that nobody asks for are never computed.
            self._model(mx.array([list(read)]), cache=self._cache)
            mx.eval([c.state for c in self._cache])
            self._length += len(read)
        if not keep:
            return np.empty((0, self.vocab_size), np.float32)
        logits = self._model(mx.array([list(scored)]), cache=self._cache)[0]
        self._length += len(scored)
        return np.array(logits.astype(mx.float32))

    def rewind(self, length: int) -> int:
        """Keep the first `length` tokens of the cache, where it can go back."""
        if length < self._length:
            if length and self._caches.can_trim_prompt_cache(self._cache):
                self._caches.trim_prompt_cache(self._cache, self._length - length)
                self._length = length
            else:
                self._cache, self._length = [], 0
        return self._length

    def memory(self) -> dict[str, int]:
        """Bytes of the weights, of the cache for the context, and of the logits of a token."""
        from mlx.utils import tree_flatten

        config = self._config
        flat: Any = tree_flatten(self._model.parameters())
        heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
        size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
        number = (
            4 if self.on_cpu or config.get("torch_dtype", config.get("dtype")) == "float32" else 2
        )
        cache = 2 * number * int(config["num_hidden_layers"]) * heads * size * self.context
        weights = sum(int(a.nbytes) for _, a in flat)
        return {"weights": weights, "kv": cache, "output": number * self.vocab_size}

    def free(self) -> None:
        """Let go of the model."""
        self._model, self._cache = None, []
        self._mx.clear_cache()
