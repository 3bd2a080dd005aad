"""Files scored on windows of calibration text that nothing was fitted to, against the source in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna._util.progress import Progress
from kanna.calibration import texts
from kanna.calibration.windows import cut
from kanna.errors import GateError
from kanna.evaluation import reference_gguf
from kanna.evaluation.divergence import compare
from kanna.hardware.cpu import default_threads
from kanna.model import F32, Model
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source

EACH = 3
"""Windows of each kind of text, for trials and for the report."""
_EVERYTHING = 1 << 40

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """Windows as (kind of text, token ids).

    both, kinds in turn.

    Attributes:
        trial: What decisions are made on.
        proof: What only the report reads.
        rest: What is left beyond.
        fitted: No text was left over, so that both are the windows that were held out of the
            statistics.
    """

    trial: list[tuple[str, list[int]]]
    proof: list[tuple[str, list[int]]]
    fitted: bool
    rest: list[tuple[str, list[int]]] = field(default_factory=list[tuple[str, list[int]]])


def spare(model: Model, calibration: Sequence[str | Path] | None, tokens: int) -> Spare:
    """The windows of the calibration text that `tokens` tokens of calibration did not reach, EACH of every kind."""
    found, _ = texts.documents(calibration, model)
    used, every = cut(found, model, tokens=tokens), cut(found, model, tokens=_EVERYTHING)
    kinds: dict[str, list[list[int]]] = {}
    for domain, ids in zip(every.domains[len(used.ids) :], every.ids[len(used.ids) :], strict=True):
        kinds.setdefault(domain, []).append([int(i) for i in ids])
    if any(len(of) > 1 for of in kinds.values()):
        trial = [(d, ids) for d, of in kinds.items() for ids in of[1::2][:EACH]]
        proof = [(d, ids) for d, of in kinds.items() for ids in of[::2][:EACH]]
        left = [[(d, ids) for ids in of[2 * EACH :]] for d, of in kinds.items()]
        rest = [one for turn in zip_longest(*left) for one in turn if one is not None]
        return Spare(trial=trial, proof=proof, fitted=False, rest=rest)
    held = [
        (d, [int(i) for i in ids])
        for d, ids, out in zip(used.domains, used.ids, used.held, strict=True)
        if out
    ]
    return Spare(trial=held, proof=held, fitted=True)


class Judge:
    """A context manager that scores files on the same windows.

    The reference reads each of them once.

    Its logits lie in a temporary folder beside the results: positions × vocabulary × 4 bytes, half
    of each window.
    """

    def __init__(
        self,
        source: Source,
        windows: Sequence[tuple[str, list[int]]],
        folder: Path,
        threads: int | None,
    ) -> None:
        self.windows, self._source, self._threads = list(windows), source, threads
        self._stack, self._folder = ExitStack(), folder
        self._logits: list[Path] = []

    def __enter__(self) -> Judge:
        self._scratch = Path(
            self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix=".judge-", dir=self._folder)
            )
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def read(self, bar: Progress) -> None:
        """Let the reference read the windows; done once."""
        if self._logits:
            return
        exact = reference_gguf(self._source, progress=bar)
        bar.start("reference", len(self.windows), "windows")
        made: list[Path] = []
        with RUNTIME.open(exact, context=self._context, threads=self._threads) as engine:
            for number, (_, ids) in enumerate(self.windows):
                made.append(self._scratch / f"{number}.npy")
                # Written, not mapped: a full disk is an error here and a signal there.
                np.save(made[-1], engine.logits(ids, first=len(ids) // 2, copy=False)[:-1])
                bar.advance(1)
        bar.finish()
        self._logits = made

    def kl(
        self,
        path: Path,
        bar: Progress,
        *,
        stop: Callable[[F64], bool] | None = None,
        cache: str = "f16",
    ) -> F64:
        """Mean KL divergence of each window in nats, f64 [windows].

        Fewer when stop(those so far) says it is enough.

        float16

        Args:
            cache: Encoding of the keys and values that the file is scored with; the reference has.
        """
        self.read(bar)
        scores: list[float] = []
        bar.start("score", len(self.windows), "windows")
        with RUNTIME.open(
            path, context=self._context, threads=self._threads, cache=cache
        ) as engine:
            for (_, ids), exact in zip(self.windows, self._logits, strict=True):
                first = len(ids) // 2
                base: F32 = np.load(exact, mmap_mode="r")
                logits = engine.logits(ids, first=first, copy=False)[:-1]
                targets: Any = np.array(ids[first + 1 :])
                _, (one,) = compare(
                    base, [logits], targets, threads=self._threads or default_threads()
                )
                if not np.isfinite(one.kl).all():
                    raise GateError(
                        f"{path} gives logits that are not numbers",
                        todo="convert again; do not use it",
                    )
                scores.append(float(one.kl.mean()))
                bar.advance(1)
                if stop is not None and stop(np.array(scores)):
                    break
        bar.finish()
        return np.array(scores)

    @property
    def _context(self) -> int:
        return max(len(ids) for _, ids in self.windows)
