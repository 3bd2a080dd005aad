"""A decoder's graph in an onnxruntime session, with cache buffers that are written in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import FormatError, KannaError
from kanna.formats.kept_rows import KEPT, kept_rows
from kanna.formats.onnx.files import Folder, rope_edge
from kanna.model import F32
from kanna.runtimes.folder_text import FolderText
from kanna.runtimes.onnx_session import pruned_session
from kanna.runtimes.stepped import PROMPT_BATCH, SteppedEngine

_CACHE = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxEngine(SteppedEngine):
    """One decoder; see `Engine`. The cache is one buffer per layer for keys and one for values."""

    def __init__(self, lib: Any, path: Path, folder: Folder, *, context: int, threads: int) -> None:
        model, decoder = folder.model, folder.decoder
        self._lib, self._folder = lib, folder
        self._names: dict[str, Any] = decoder.get("inputs", {}) | decoder.get("outputs", {})
        # Before the weights, beside which its text would lie while it is read.
        text = FolderText(path, [model])
        self._session: Any = pruned_session(
            lib, folder.graph, threads, str(self._names.get("logits"))
        )
        kinds = {i.name: i.type for i in self._session.get_inputs()}
        self._layers, heads, size = (
            int(decoder.get(k) or 0)
            for k in ("num_hidden_layers", "num_key_value_heads", "head_size")
        )
        try:
            self._pairs = [
                (
                    self._names[f"past_{kind}_names"] % layer,
                    self._names[f"present_{kind}_names"] % layer,
                )
                for layer in range(self._layers)
                for kind in ("key", "value")
            ]
            self._dtype = _CACHE[kinds[self._pairs[0][0]]]
            absent = {self._names["input_ids"], *(past for past, _ in self._pairs)} - set(kinds)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(
                f"{path} has a cache that is not known: {error!r}", todo="convert again"
            ) from None
        if absent:
            raise FormatError(
                f"the graph of {path} has no input {sorted(absent)[0]}", todo="convert again"
            )
        self._kinds, self._shape = kinds, (1, heads, 0, size)
        self._binding: Any = None
        self._cache: list[Any] = []
        self._length = 0
        super().__init__(
            path,
            text,
            vocab_size=int(model.get("vocab_size") or 0),
            trained_context=int(model.get("context_length") or 0),
            context=context,
            threads=threads,
        )
        self.rope_edge = rope_edge(folder.graph) if model.get("type") == "phi3" else 0

    def _bound(self) -> Any:
        """The cache, made when it is first needed, bound as past and as present at once."""
        if self._binding is None:
            batch, heads, _, size = self._shape
            self._binding = self._session.io_binding()
            self._binding.bind_output(self._names["logits"], "cpu")
            for past, present in self._pairs:
                buffer = self._lib.OrtValue.ortvalue_from_numpy(
                    np.zeros((batch, heads, self.context, size), self._dtype)
                )
                self._cache.append(buffer)
                self._binding.bind_ortvalue_input(past, buffer)
                self._binding.bind_ortvalue_output(present, buffer)
        return self._binding

    def forward(self, ids: Sequence[int], keep: int) -> F32:
        """Logits after the last `keep` of `ids`; see `SteppedEngine`."""
        binding, stop = self._bound(), self._length + len(ids)
        binding.bind_cpu_input(self._names["input_ids"], np.array([ids], np.int64))
        for name, value in (
            ("attention_mask", np.ones((1, stop), np.int64)),
            ("position_ids", np.arange(self._length, stop, dtype=np.int64)[None]),
        ):
            if self._names.get(name) in self._kinds:
                binding.bind_cpu_input(self._names[name], value)
        if KEPT in self._kinds:
            binding.bind_cpu_input(KEPT, kept_rows(keep))
        binding.bind_output(self._names["logits"], "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            self._past, self._length = [], 0
            raise KannaError(
                f"onnxruntime failed on {self.path}: {' '.join(str(error).split())[:300]}"
            ) from error
        self._length = stop
        rows = binding.get_outputs()[0].numpy()[0]
        # A copy of the last row where there are others: they would stay in memory.
        return (
            np.ascontiguousarray(rows[len(rows) - keep :], np.float32)
            if keep < len(rows)
            else _float(rows)
        )

    def sessions(self) -> dict[str, Any]:
        """The session of the graph, by the name of its file."""
        return {self._folder.graph.name: self._session}

    def rewind(self, length: int) -> int:
        """Keep the first `length` tokens of the cache, where it can go back."""
        self._length = min(self._length, length)
        return self._length

    def memory(self) -> dict[str, int]:
        """Bytes of the weights on disk, of the cache, and of the logits of a prompt."""
        self._bound()
        rows = 1 if KEPT in self._kinds else min(PROMPT_BATCH, self.context)
        cache = (
            self.context
            * self._shape[1]
            * self._shape[3]
            * np.dtype(self._dtype).itemsize
            * len(self._pairs)
        )
        return {"weights": self._folder.nbytes, "kv": cache, "output": rows * self.vocab_size * 4}

    def free(self) -> None:
        """Let go of the model."""
        self._binding, self._cache, self._session = None, [], None


def _float(rows: Any) -> F32:
    return rows.astype(np.float32, copy=False)
