"""Continuous batching of an ONNX decoder: sequences in the rows of one shared cache.

onnxruntime-genai's own engine batches graphs of this kind statically: a request waits until all
before it have ended. The graph can do more. GroupQueryAttention takes each row's length from its
attention mask and writes new keys and values in place when past and present are one buffer, so rows
may come and go between any two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util import extras
from kanna.errors import FormatError, MissingError
from kanna.formats.kept_rows import KEPT, kept_rows
from kanna.formats.onnx.files import check_names, genai_model, rope_edge
from kanna.model import F32
from kanna.runtimes.onnx_session import pruned_session
from kanna.serving.engines._jobs import AdapterScales
from kanna.serving.engines._onnx_adapters import OnnxAdapters

_LOGITS = "logits"
_CACHED_STEPS = 64
"""Groups of rows whose buffers stay bound."""
_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxDecoder:
    """Rows of `context` tokens, of which the first `active` are in use.

    Raises:
        FormatError: The graph does not take one cache per layer with a length that varies.
    """

    def __init__(
        self,
        folder: Path,
        *,
        context: int,
        rows: int,
        threads: int | None,
        adapters: Sequence[Path] = (),
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingError(
                "onnxruntime is not installed here", todo=extras.command("onnx")
            ) from error
        check_names(folder, graphs=True)
        self.config = genai_model(folder).values
        decoder = self.config["decoder"]
        if "pipeline" in decoder:
            raise FormatError(
                f"{folder} has graphs of fixed shapes, which run one text at a time",
                expected="a folder that `kanna convert` wrote without --static",
                todo="run this one with `kanna generate`, or with onnxruntime-genai",
            )
        onnxruntime.disable_telemetry_events()
        graph = folder / decoder["filename"]
        self._session: Any = pruned_session(onnxruntime, graph, threads, _LOGITS)
        self._adapters = OnnxAdapters(onnxruntime, self._session, adapters)
        self.vocab_size = int(self.config["vocab_size"])
        # Rows of a step share the factors of rope: none of them may go beyond the length at which
        # those change.
        edge = rope_edge(graph) if self.config.get("type") == "phi3" else 0
        self.context, self.rows = min(context, edge or int(self.config["context_length"])), rows
        self.lengths: list[int] = []
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._caches = self._make_caches(decoder)
        self._switched_on: list[AdapterScales] = []  # of each row
        self._steps: dict[tuple[int, int, AdapterScales], Any] = {}
        self._logits = np.zeros((rows, 1, self.vocab_size), self._type_of_logits())
        known = {"input_ids", "attention_mask", "position_ids", KEPT}
        known |= {name for name, _, _ in self._caches}
        if unknown := set(self._inputs) - known:
            raise FormatError(
                f"{folder} has a graph with the input {sorted(unknown)[0]!r}",
                expected="input_ids, attention_mask, position_ids and one cache per layer",
            )

    def _make_caches(self, decoder: dict[str, Any]) -> list[tuple[str, str, Any]]:
        """Of every layer, the names of past and present and the buffer of both.

        A buffer is [rows, kv heads, context, head size].
        """
        caches: list[tuple[str, str, Any]] = []
        shape = (self.rows, decoder["num_key_value_heads"], self.context, decoder["head_size"])
        for layer in range(decoder["num_hidden_layers"]):
            for kind in ("key", "value"):
                past = decoder["inputs"][f"past_{kind}_names"] % layer
                present = decoder["outputs"][f"present_{kind}_names"] % layer
                source = self._inputs.get(past)
                if source is None or source.type not in _TYPES:
                    raise FormatError(
                        f"the graph has no cache {past!r} of floats", expected="a decoder of genai"
                    )
                caches.append((past, present, np.zeros(shape, _TYPES[source.type])))
        return caches

    @property
    def active(self) -> int:
        """Rows in use."""
        return len(self.lengths)

    def begin(self, adapters: AdapterScales = ()) -> int:
        """The index of a new, empty row; the caller makes sure that one is free.

        Args:
            adapters: Those that change what is computed in it.
        """
        self.lengths.append(0)
        self._switched_on.append(adapters)
        return len(self.lengths) - 1

    def move(self, row: int, to: int) -> None:
        """Copy what one row holds over another."""
        if row != to:
            length = self.lengths[to] = self.lengths[row]
            self._switched_on[to] = self._switched_on[row]
            for _, _, cache in self._caches:
                cache[to, :, :length] = cache[row, :, :length]

    def end(self, row: int) -> None:
        """Forget the last row, which `row` must be."""
        assert row == len(self.lengths) - 1
        self.lengths.pop()
        self._switched_on.pop()

    def read(self, row: int, ids: Sequence[int], keep: int) -> F32:
        """Append `ids` to one row; logits after the last `keep`, f32 [keep, vocab_size]."""
        past = self.lengths[row]
        total = past + len(ids)
        mask = np.ones((1, total), np.int64)
        positions = np.arange(past, total, dtype=np.int64)[None]
        binding = self._binding(row, 1, self._switched_on[row])
        binding.bind_output(_LOGITS, "cpu")
        self._run(binding, np.asarray(ids, np.int64)[None], mask, positions, keep)
        self.lengths[row] = total
        logits = binding.get_outputs()[-1].numpy()[0]
        return logits[len(logits) - keep :].astype(np.float32, copy=False)

    def step(self, ids: Sequence[int]) -> F32:
        """Append one token to each of the first `len(ids)` rows.

        Returns:
            Logits after it, f32 [len(ids), vocab_size], which the next step may overwrite.
        """
        count, row = len(ids), 0
        for adapters, group in groupby(self._switched_on[:count]):
            end = row + len(list(group))
            self._step(row, ids[row:end], adapters)
            row = end
        return self._logits[:count, 0].astype(np.float32, copy=False)

    def _step(self, row: int, ids: Sequence[int], adapters: AdapterScales) -> None:
        """Append one token to each of the rows from `row` on, which share their adapters."""
        count = len(ids)
        lengths = np.asarray(self.lengths[row : row + count], np.int64)
        mask = (np.arange(lengths.max() + 1)[None] <= lengths[:, None]).astype(np.int64)
        key = (row, count, adapters)
        if key not in self._steps:  # binding sixty buffers takes a millisecond
            if len(self._steps) > _CACHED_STEPS:
                self._steps.clear()
            self._steps[key] = self._binding(*key)
            logits = self._logits[row : row + count]
            self._bind(self._steps[key].bind_output, _LOGITS, logits)
        tokens = np.asarray(ids, np.int64)[:, None]
        self._run(self._steps[key], tokens, mask, lengths[:, None].copy(), 1)
        for at in range(row, row + count):
            self.lengths[at] += 1

    def _binding(self, row: int, count: int, adapters: AdapterScales) -> Any:
        """Caches of `count` rows from `row` on, read and written in place, and adapters."""
        binding = self._session.io_binding()
        binding.adapters = self._adapters.values(adapters)  # their buffers must outlive it
        for name, value in binding.adapters.items():
            self._bind(binding.bind_input, name, value)
        for past, present, cache in self._caches:
            self._bind(binding.bind_input, past, cache[row : row + count])
            self._bind(binding.bind_output, present, cache[row : row + count])
        return binding

    @staticmethod
    def _bind(bind: Any, name: str, buffer: Any) -> None:
        bind(name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)

    def _run(self, binding: Any, ids: Any, mask: Any, positions: Any, keep: int) -> None:
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        if "position_ids" in self._inputs:
            binding.bind_cpu_input("position_ids", positions)
        if KEPT in self._inputs:
            binding.bind_cpu_input(KEPT, kept_rows(keep))
        self._session.run_with_iobinding(binding)

    def _type_of_logits(self) -> Any:
        kind = next(o.type for o in self._session.get_outputs() if o.name == _LOGITS)
        if kind not in _TYPES:
            raise FormatError(
                f"the graph's logits are of the type {kind}", expected=" or ".join(_TYPES)
            )
        return _TYPES[kind]
