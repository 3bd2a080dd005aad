"""Rows of an OpenVINO decoder whose attention cannot be paged: a set of states for each.

Scores that have a cap (Gemma 2) are computed operation by operation, and OpenVINO pages its one
operation of attention alone. Weights are shared between rows; a step computes one row after the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.formats.kept_rows import KEPT, kept_rows
from kanna.formats.openvino import graphs
from kanna.formats.openvino.decoder import INPUTS, LOGITS
from kanna.formats.openvino.last_rows import keep_last_rows
from kanna.model import F32
from kanna.serving.engines._jobs import AdapterScales
from kanna.serving.engines._openvino_loading import cpu_options, load_module, refusals


class StatefulDecoder:
    """Rows of `context` tokens, each with states of its own; see `RowDecoder`.

    Raises:
        MissingError: OpenVINO is not here.
        FormatError: It cannot load the graph.
    """

    def __init__(self, folder: Path, *, context: int, rows: int, threads: int | None) -> None:
        openvino = load_module()
        with refusals(folder):
            core = openvino.Core()
            graph = graphs.load(core, folder)
            self._prunes = keep_last_rows(openvino, graph, LOGITS)
            compiled = core.compile_model(graph, "CPU", cpu_options(threads))
            self._requests: list[Any] = [compiled.create_infer_request() for _ in range(rows)]
            self.vocab_size = int(compiled.output(LOGITS).partial_shape[2].get_length())
        self.context = context
        self._lengths: list[int] = []

    @property
    def active(self) -> int:
        """Rows in use."""
        return len(self._lengths)

    def begin(self, adapters: AdapterScales = ()) -> int:
        """The index of a new, empty row; the caller makes sure that one is free."""
        assert not adapters, "no adapter is loaded here"
        self._requests[len(self._lengths)].reset_state()
        self._lengths.append(0)
        return len(self._lengths) - 1

    def move(self, row: int, to: int) -> None:
        """Put what one row holds in the place of another."""
        self._lengths[to] = self._lengths[row]
        requests = self._requests
        requests[row], requests[to] = requests[to], requests[row]

    def end(self, row: int) -> None:
        """Forget the last row, which `row` must be."""
        assert row == len(self._lengths) - 1
        self._lengths.pop()

    def read(self, row: int, ids: Sequence[int], keep: int) -> F32:
        """Append `ids` to one row; logits after the last `keep`, f32 [keep, vocab_size]."""
        start = self._lengths[row]
        stop = start + len(ids)
        values = (
            np.array([ids], np.int64),
            np.ones((1, stop), np.int64),
            np.arange(start, stop, dtype=np.int64)[None],
            np.zeros(1, np.int32),
        )
        given: dict[str, Any] = dict(zip(INPUTS, values, strict=True))
        if self._prunes:
            given[KEPT] = kept_rows(keep)
        logits = self._requests[row].infer(given)[LOGITS][0]
        self._lengths[row] = stop
        return np.array(logits[len(logits) - keep :], np.float32)

    def step(self, ids: Sequence[int]) -> F32:
        """Append one token to each of the first rows; logits after it, f32 [rows, vocab_size]."""
        return np.concatenate([self.read(row, [token], 1) for row, token in enumerate(ids)])
