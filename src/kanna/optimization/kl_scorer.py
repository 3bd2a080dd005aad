"""Files scored against the source in float32, on calibration text that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from kanna._util import own_files
from kanna._util.progress import Progress
from kanna.calibration import texts
from kanna.calibration.windows import cut
from kanna.errors import GateError
from kanna.evaluation import reference_gguf
from kanna.evaluation.divergence import compare
from kanna.evaluation.reference_check import require
from kanna.evaluation.stats import MIN_WINDOWS
from kanna.model import F32, Model
from kanna.optimization.context import Context, Workspace
from kanna.runtimes.llamacpp import RUNTIME

EACH = 3
"""Windows of each kind of text, for decisions and for the report."""
SURE = 0.5
"""How much of the half width of the 95 % interval a gain must exceed: about one standard error."""
_EVERYTHING = 1 << 40

F64 = NDArray[np.float64]
Window = tuple[str, list[int]]
"""A kind of text, and token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutWindows:
    """Windows of calibration text that nothing was fitted to, kinds of text in turn.

    Attributes:
        trial: Decisions are made on these.
        proof: Only the report reads these.
        rest: All that are beyond both.
        fitted: Whether there was no such text, so that `trial` and `proof` are the windows that
            were held out of the statistics.
    """

    trial: list[Window]
    proof: list[Window]
    fitted: bool
    rest: list[Window] = field(default_factory=list[Window])


def held_out(
    model: Model, calibration: Sequence[str | Path] | None, tokens: int, least: int = MIN_WINDOWS
) -> HeldOutWindows:
    """The windows that `tokens` tokens of calibration did not reach, EACH of every kind of text.

    Args:
        model: Whose tokenizer cuts the text.
        calibration: The text.
        tokens: That are calibrated on.
        least: Windows of all kinds together that are to decide, and as many to report, where the
            text has them: more than EACH of one kind, where there are few kinds.
    """
    documents, _ = texts.documents(calibration, model)
    used, full = cut(documents, model, tokens=tokens), cut(documents, model, tokens=_EVERYTHING)
    kinds: dict[str, list[list[int]]] = {}
    start = len(used.ids)
    for domain, ids in zip(full.domains[start:], full.ids[start:], strict=True):
        kinds.setdefault(domain, []).append([int(i) for i in ids])
    if any(len(windows) > 1 for windows in kinds.values()):
        each = max(EACH, -(-least // len(kinds)))
        trial = [(kind, ids) for kind, windows in kinds.items() for ids in windows[1::2][:each]]
        proof = [(kind, ids) for kind, windows in kinds.items() for ids in windows[::2][:each]]
        beyond = [[(kind, ids) for ids in windows[2 * each :]] for kind, windows in kinds.items()]
        rest = [window for turn in zip_longest(*beyond) for window in turn if window is not None]
        return HeldOutWindows(trial=trial, proof=proof, fitted=False, rest=rest)
    held = [
        (kind, [int(i) for i in ids])
        for kind, ids, is_held in zip(used.domains, used.ids, used.held, strict=True)
        if is_held
    ]
    return HeldOutWindows(trial=held, proof=held, fitted=True)


def can_decide(windows: HeldOutWindows, context: Context) -> bool:
    """Whether there is text to decide on after the search.

    A note says so if not, or if it was used before.

    Args:
        windows: Calibration text that is left over.
        context: Gets the notes.
    """
    if len(windows.trial) < MIN_WINDOWS:
        context.note(
            "the calibration text is too short to decide on: neither swaps of encodings nor tuning "
            "were tried"
        )
        return False
    if windows.fitted:
        context.note(
            "no calibration text was left over: what followed the search was decided on the "
            "windows held out of the statistics"
        )
    return True


class KLScorer:
    """Scores files in llama.cpp on the same windows, as a context manager.

    The reference reads each window once. Its logits lie in a temporary folder: half of the
    positions of each window × vocabulary × 4 bytes.
    """

    def __init__(self, workspace: Workspace, windows: Sequence[Window]) -> None:
        self.windows, self._workspace = list(windows), workspace
        self._threads, self._progress = workspace.context.threads, workspace.context.progress
        self._stack = ExitStack()
        self._logits: list[Path] = []

    def __enter__(self) -> KLScorer:
        self._scratch = self._stack.enter_context(
            own_files.scratch(self._workspace.folder, "judge")
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def read(self) -> None:
        """Let the reference read the windows; done once."""
        if self._logits:
            return
        progress = self._progress
        exact = reference_gguf(self._workspace.source, progress=progress)
        require(self._workspace.source, exact, threads=self._threads)
        progress.start("reference", len(self.windows), "windows")
        paths: list[Path] = []
        with RUNTIME.open(exact, context=self._context, threads=self._threads) as engine:
            for number, (_, ids) in enumerate(self.windows):
                paths.append(self._scratch / f"{number}.npy")
                # Written, not mapped: a full disk is an error here and a signal there.
                np.save(paths[-1], engine.logits(ids, first=len(ids) // 2, copy=False)[:-1])
                progress.advance(1)
        progress.finish()
        self._logits = paths

    def kl(
        self,
        path: Path,
        *,
        progress: Progress | None = None,
        stop: Callable[[F64], bool] | None = None,
        cache: str = "f16",
    ) -> F64:
        """Mean KL divergence of each window in nats, f64 [windows].

        Args:
            path: The file.
            progress: Where to report; None: where the run does.
            stop: Is given the scores so far; where it is true, no more windows are read.
            cache: Encoding of the keys and values that the file is scored with; the reference has
                float16.

        Raises:
            GateError: The file gives logits that are not numbers.
        """
        self.read()
        progress = progress or self._progress
        scores: list[float] = []
        progress.start("score", len(self.windows), "windows")
        with RUNTIME.open(
            path, context=self._context, threads=self._threads, cache=cache
        ) as engine:
            for (_, ids), exact in zip(self.windows, self._logits, strict=True):
                first = len(ids) // 2
                base: F32 = np.load(exact, mmap_mode="r")
                logits = engine.logits(ids, first=first, copy=False)[:-1]
                targets = np.array(ids[first + 1 :])
                _, (divergence,) = compare(
                    base, [logits], targets, threads=self._workspace.context.workers
                )
                if not np.isfinite(divergence.kl).all():
                    raise GateError(
                        f"{path} gives logits that are not numbers",
                        todo="convert again; do not use it",
                    )
                scores.append(float(divergence.kl.mean()))
                progress.advance(1)
                if stop is not None and stop(np.array(scores)):
                    break
        progress.finish()
        return np.array(scores)

    @property
    def _context(self) -> int:
        return max(len(ids) for _, ids in self.windows)
