"""Two graphs of fixed shapes in onnxruntime: a chunk of a prompt at a time, then tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import FormatError, KannaError
from kanna.formats.onnx.files import Folder
from kanna.model import F32
from kanna.runtimes.folder_text import FolderText
from kanna.runtimes.onnx_session import session
from kanna.runtimes.stepped import SteppedEngine

_CACHE = {"tensor(uint16)": np.uint16}
"""Types of a cache that is one of codes."""


class StaticOnnxEngine(SteppedEngine):
    """A decoder as `kanna convert --static` writes it; see `Engine`.

    Both graphs write one cache in place. A chunk is padded on its right with tokens that none after
    them sees: their keys are overwritten by what comes there.
    """

    def __init__(self, lib: Any, path: Path, folder: Folder, *, context: int, threads: int) -> None:
        model, decoder = folder.model, folder.decoder
        assert folder.prefill is not None
        self._folder = folder
        self._names: dict[str, Any] = decoder.get("inputs", {}) | decoder.get("outputs", {})
        graphs = [session(lib, graph, threads) for graph in (folder.prefill, folder.graph)]
        try:
            (self._chunk, *_), (single, *_) = (
                _shapes(graph)[self._names["input_ids"]][1:] for graph in graphs
            )
            self._pairs = [
                (
                    self._names[f"past_{kind}_names"] % layer,
                    self._names[f"present_{kind}_names"] % layer,
                )
                for layer in range(int(decoder["num_hidden_layers"]))
                for kind in ("key", "value")
            ]
            sizes = {tuple(_shapes(graph)[past]) for graph in graphs for past, _ in self._pairs}
            (self._shape,) = sizes
            self._room: int = self._shape[2]
            self._last, self._total = (
                self._names[f"{kind}_sequence_length"] for kind in ("past", "total")
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(
                f"{path} has graphs whose shapes do not fit each other: {error!r}",
                todo="convert again",
            ) from None
        if single != 1:
            raise FormatError(f"{path} has a graph for {single} tokens", expected="one for 1")
        self._graphs, self._length = {self._chunk: graphs[0], 1: graphs[1]}, 0
        kinds = {i.name: _CACHE.get(i.type, np.float32) for i in graphs[0].get_inputs()}
        self._cache = {
            past: lib.OrtValue.ortvalue_from_numpy(np.zeros(self._shape, kinds[past]))
            for past, _ in self._pairs
        }
        super().__init__(
            path,
            FolderText(path, [model]),
            vocab_size=int(model.get("vocab_size") or 0),
            trained_context=int(model.get("context_length") or 0),
            context=context,
            threads=threads,
        )

    def forward(self, ids: Sequence[int], keep: int) -> F32:
        """Logits after the last `keep` of `ids`; see `SteppedEngine`."""
        parts: list[F32] = []
        at, first = 0, len(ids) - keep
        while at < len(ids):
            fits = self._length + self._chunk <= self._room
            size = self._chunk if fits and len(ids) - at > 1 else 1
            part = ids[at : at + size]
            rows = self._run(part, size)
            parts.append(rows[max(0, first - at) : len(part)])
            at += len(part)
        return np.concatenate(parts)

    def _run(self, ids: Sequence[int], size: int) -> F32:
        """Logits of one call, f32 [size, vocabulary], those of padding among them."""
        graph = self._graphs[size]
        padded = np.zeros((1, size), np.int32)
        padded[0, : len(ids)] = ids
        binding = graph.io_binding()
        for name, value in (
            (self._names["input_ids"], padded),
            (self._last, np.array([[self._length + size - 1]], np.int32)),
            (self._total, np.array([self._room], np.int32)),
        ):
            binding.bind_cpu_input(name, value)
        binding.bind_output(self._names["logits"], "cpu")  # the first of the outputs
        for past, present in self._pairs:
            binding.bind_ortvalue_input(past, self._cache[past])
            binding.bind_ortvalue_output(present, self._cache[past])
        try:
            graph.run_with_iobinding(binding)
        except Exception as error:
            self._past, self._length = [], 0
            raise KannaError(
                f"onnxruntime failed on {self.path}: {' '.join(str(error).split())[:300]}"
            ) from error
        self._length += len(ids)
        return binding.get_outputs()[0].numpy()[0]

    def sessions(self) -> dict[str, Any]:
        """The sessions of both graphs, by the names of their files."""
        assert self._folder.prefill is not None
        files = (self._folder.prefill, self._folder.graph)
        return {file.name: graph for file, graph in zip(files, self._graphs.values(), strict=True)}

    @property
    def chunk(self) -> int:
        """Tokens of a prompt that are read at once."""
        return self._chunk

    def rewind(self, length: int) -> int:
        """Keep the first `length` tokens of the cache."""
        self._length = min(self._length, length)
        return self._length

    def memory(self) -> dict[str, int]:
        """Bytes of the weights on disk, of the cache, and of the logits of one chunk."""
        cache = sum(value.numpy().nbytes for value in self._cache.values())
        logits = self._chunk * self.vocab_size * 4
        return {"weights": self._folder.nbytes, "kv": cache, "output": logits}

    def free(self) -> None:
        """Let go of the model."""
        self._graphs, self._cache = {}, {}


def _shapes(graph: Any) -> dict[str, list[Any]]:
    return {i.name: i.shape for i in graph.get_inputs()}
