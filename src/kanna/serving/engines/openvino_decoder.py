"""Continuous batching of an OpenVINO decoder: sequences in pages of one shared cache.

OpenVINO turns a graph whose keys and values are states into one with paged attention, as
openvino-genai's own pipeline has it do. Such a graph reads tokens of several sequences one after
the other, and each sequence says in which blocks of the cache its keys and values lie: rows come
and go between any two steps, and nothing is copied. openvino-genai's pipeline itself gives no
logits, which biases, the likeliest tokens and the scoring of a prompt need.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.formats.kept_rows import KEPT, kept_rows
from kanna.formats.openvino import graphs
from kanna.formats.openvino.decoder import LOGITS
from kanna.formats.openvino.last_rows import keep_last_rows
from kanna.model import F32
from kanna.serving.engines._jobs import AdapterScales
from kanna.serving.engines._openvino_loading import cpu_options, load_module, refusals

_TOKENS = 0
"""The axis of tokens in what the head of such a graph reads: [tokens, 1, width]."""
_BLOCK_AXIS = 2
"""The axis of a cache of values along which the tokens of a block lie."""


class OpenVINODecoder:
    """Rows of `context` tokens, each with blocks of its own; see `RowDecoder`.

    Sums are float32, as where kanna verifies and evaluates a folder.

    Raises:
        MissingError: OpenVINO is not here.
        FormatError: The graph is none of a decoder with states.
    """

    def __init__(self, folder: Path, *, context: int, rows: int, threads: int | None) -> None:
        self._openvino = load_module()
        passes = load_module("openvino._offline_transformations")
        with refusals(folder):
            core = self._openvino.Core()
            graph = graphs.load(core, folder)
            passes.paged_attention_transformation(graph)
            self._prunes = keep_last_rows(self._openvino, graph, LOGITS, axis=_TOKENS)
            compiled = core.compile_model(graph, "CPU", cpu_options(threads))
            self._request: Any = compiled.create_infer_request()
            self.vocab_size = int(compiled.output(LOGITS).partial_shape[2].get_length())
            caches = [port for port in compiled.inputs if "_cache." in port.any_name]
            values = next(port for port in caches if port.any_name.startswith("value_cache."))
            self._block = int(values.partial_shape[_BLOCK_AXIS].get_length())
        self.context = context
        self._row_blocks = -(-context // self._block)
        for port in caches:
            sizes = [int(size.get_length()) for size in list(port.partial_shape)[1:]]
            shape = self._openvino.Shape([rows * self._row_blocks, *sizes])
            cache = self._openvino.Tensor(port.element_type, shape)
            self._request.set_tensor(port.any_name, cache)
        self._lengths: list[int] = []
        self._places = list(range(rows))  # of each row, where its blocks begin

    @property
    def active(self) -> int:
        """Rows in use."""
        return len(self._lengths)

    def begin(self, adapters: AdapterScales = ()) -> int:
        """The index of a new, empty row; the caller makes sure that one is free."""
        assert not adapters, "no adapter is loaded here"
        self._lengths.append(0)
        return len(self._lengths) - 1

    def move(self, row: int, to: int) -> None:
        """Put what one row holds in the place of another, which gets the blocks of the first."""
        self._lengths[to] = self._lengths[row]
        self._places[row], self._places[to] = self._places[to], self._places[row]

    def end(self, row: int) -> None:
        """Forget the last row, which `row` must be."""
        assert row == len(self._lengths) - 1
        self._lengths.pop()

    def read(self, row: int, ids: Sequence[int], keep: int) -> F32:
        """Append `ids` to one row; logits after the last `keep`, f32 [keep, vocab_size]."""
        return self._run([row], ids, len(ids), keep)

    def step(self, ids: Sequence[int]) -> F32:
        """Append one token to each of the first `len(ids)` rows.

        Returns:
            Logits after it, f32 [len(ids), vocab_size].
        """
        return self._run(range(len(ids)), ids, 1, len(ids))

    def _run(self, rows: Sequence[int], ids: Sequence[int], each: int, keep: int) -> F32:
        """Append `each` tokens to every one of `rows`; `ids` has them row after row.

        Returns:
            Logits after the last `keep` of `ids`, f32 [keep, vocab_size].
        """
        past = np.array([self._lengths[row] for row in rows], np.int32)
        counts = -(-(past + each) // self._block)
        blocks = [
            self._places[row] * self._row_blocks + np.arange(count, dtype=np.int32)
            for row, count in zip(rows, counts, strict=True)
        ]
        values = {
            "input_ids": np.asarray(ids, np.int64),
            "position_ids": (past[:, None] + np.arange(each)).astype(np.int64).reshape(-1),
            "past_lens": past,
            "subsequence_begins": np.arange(len(past) + 1, dtype=np.int32) * np.int32(each),
            "block_indices": np.concatenate(blocks).astype(np.int32),
            "block_indices_begins": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            "max_context_len": np.array(past.max() + each, np.int32),
        }
        if self._prunes:
            values[KEPT] = kept_rows(keep)
        for name, value in values.items():
            self._request.set_tensor(name, self._openvino.Tensor(value))
        self._request.infer()
        for row in rows:
            self._lengths[row] += each
        logits = self._request.get_tensor(LOGITS).data.reshape(-1, self.vocab_size)
        return np.array(logits[len(logits) - keep :], np.float32)
