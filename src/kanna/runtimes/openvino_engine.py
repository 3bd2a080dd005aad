"""A decoder's graph compiled by OpenVINO for the CPU, its keys and values kept as states.

Sums are float32: OpenVINO would take bfloat16 where the processor has it, and the same artefact
would be another one on the next machine. All else is as openvino-genai has it: the graph says how
keys and values are kept, and whether inputs of packed matrices are rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import FormatError, KannaError
from kanna.formats.kept_rows import KEPT, kept_rows
from kanna.formats.openvino import SCALES_BYTES, WEIGHTS, graphs
from kanna.formats.openvino.decoder import INPUTS, LOGITS
from kanna.formats.openvino.last_rows import keep_last_rows
from kanna.model import F32
from kanna.runtimes.folder_text import FolderText, read_json
from kanna.runtimes.stepped import PROMPT_BATCH, SteppedEngine

_TOKENS = 2
"""The axis of a state along which tokens lie: [batch, heads, tokens, values]."""


class OpenVINOEngine(SteppedEngine):
    """One model; see `Engine`."""

    def __init__(self, openvino: Any, path: Path, *, context: int, threads: int) -> None:
        self._openvino = openvino
        config = read_json(path / "config.json")
        # Before the weights, beside which its text would lie while it is read.
        text = FolderText(path, [config])
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        try:
            core = openvino.Core()
            graph = graphs.load(core, path)
            self._prunes = keep_last_rows(openvino, graph, LOGITS)
            compiled = core.compile_model(graph, "CPU", options)
            names = {name for port in compiled.inputs for name in port.names}
            sizes = compiled.output(LOGITS).partial_shape
            vocabulary = sizes[2].get_length() if len(sizes) == 3 and sizes[2].is_static else 0
        except RuntimeError as error:
            raise FormatError(
                f"OpenVINO cannot load {path}: {' '.join(str(error).split())[:400]}",
                todo="convert again",
            ) from error
        if names - {KEPT} != set(INPUTS) or not vocabulary:
            raise FormatError(
                f"the graph of {path} has the inputs {', '.join(sorted(names))}",
                expected=f"{', '.join(INPUTS)}, and logits over a vocabulary",
                todo="convert again",
            )
        self._request: Any = compiled.create_infer_request()
        states = [state.state.shape for state in self._request.query_state()]
        size = int(compiled.get_property("KV_CACHE_PRECISION").size)
        scales = SCALES_BYTES if size == 1 else 0
        self._token_bytes = sum(int(s[1]) * (int(s[3]) * size + scales) for s in states)
        self._length = 0
        super().__init__(
            path,
            text,
            vocab_size=vocabulary,
            trained_context=int(config.get("max_position_embeddings") or 0),
            context=context,
            threads=threads,
        )

    def forward(self, ids: Sequence[int], keep: int) -> F32:
        """Logits after the last `keep` of `ids`; see `SteppedEngine`."""
        stop = self._length + len(ids)
        values = (
            np.array([ids], np.int64),
            np.ones((1, stop), np.int64),
            np.arange(self._length, stop, dtype=np.int64)[None],
            np.zeros(1, np.int32),
        )
        try:
            given: dict[str, Any] = dict(zip(INPUTS, values, strict=True))
            if self._prunes:
                given[KEPT] = kept_rows(keep)
            rows = self._request.infer(given, share_outputs=True)[LOGITS][0]
        except RuntimeError as error:
            self._past = []
            self.rewind(0)
            raise KannaError(
                f"OpenVINO failed on {self.path}: {' '.join(str(error).split())[:300]}"
            ) from error
        self._length = stop
        # The buffer is used again by the next call.
        return np.array(rows[len(rows) - keep :], np.float32)

    def rewind(self, length: int) -> int:
        """Keep the first `length` tokens of the cache."""
        if length < self._length:
            if length:
                for state in self._request.query_state():
                    kept = np.take(state.state.data, range(length), axis=_TOKENS)
                    state.state = self._openvino.Tensor(np.ascontiguousarray(kept))
            else:
                self._request.reset_state()
            self._length = length
        return self._length

    def memory(self) -> dict[str, int]:
        """Bytes of the weights, of the cache for the context, and of the logits of a prompt."""
        rows = 1 if self._prunes else min(PROMPT_BATCH, self.context)
        return {
            "weights": (self.path / WEIGHTS).stat().st_size,
            "kv": self._token_bytes * self.context,
            "output": rows * self.vocab_size * 4,
        }

    def free(self) -> None:
        """Let go of the model."""
        self._request = None
