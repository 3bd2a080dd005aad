"""How much an optimization does: what the time of its stages depends on, beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kanna.calibration.second_moments import HELD_TOKENS
from kanna.calibration.windows import HELD_OUT
from kanna.evaluation.windows import DEFAULT_WINDOWS
from kanna.formats.onnx.static_shapes import StaticShape
from kanna.optimization.request import Effort


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchExtent:
    """How much is done.

    Attributes:
        effort: How far the search goes.
        tokens: To calibrate on.
        passes: Times that they are read: without and with each adapter that stays apart.
        windows: Of text to evaluate on; None: as `evaluate` does.
        candidates: Names of the encodings that are measured.
        bits: Bits per weight of the result.
        threads: Cores that are used.
        probes: Whether the format measures kinds of matrices in its runtime.
        levels: Whether rounded inputs are measured by kind of product.
        static: Shapes of the graphs that are written; None: a file or a graph of any length.
        swaps: Trials of the local search at most.
        corrects: Whether values are chosen again by what quantized layers before them give.
        tunes: Whether scales are tuned.
        guard_tokens: That a file reads and writes to answer the tasks that guard it.
        cache_tokens: Of the context that a budget of memory has room for; 0 with any other budget.
        compares: Whether every file goes through all checks, in llama.cpp.
        timed: Encodings whose speed is measured first, where it is a budget and not known yet.
        kinds: Of text to calibrate on, which take turns.
        referenced: Whether the source in float32 is there already, or is the source itself.
    """

    effort: Effort
    tokens: int
    windows: int | None
    candidates: Sequence[str]
    bits: float
    threads: int
    probes: bool
    swaps: int
    corrects: bool
    tunes: bool
    guard_tokens: int = 0
    cache_tokens: int = 0
    compares: bool = True
    timed: int = 0
    passes: int = 1
    kinds: int = 1
    levels: bool = False
    static: StaticShape | None = None
    referenced: bool = False

    def held_windows(self, window: int) -> int:
        """Windows of so many tokens that are held out: none of a kind that has few."""
        turns, more = divmod(max(1, round(self.tokens / window)), self.kinds)
        least, most = ((t + HELD_OUT // 2 - 1) // HELD_OUT for t in (turns, turns + 1))
        return more * most + (self.kinds - more) * least

    def held_inputs(self, window: int) -> int:
        """Held-out inputs that are stored of every site."""
        held = self.held_windows(window) * window // 2
        return held // max(1, -(-held // HELD_TOKENS))

    @property
    def proved(self) -> int:
        """Files or folders that are written and proved: of the plan, and of the plain preset.

        A plan is there before and after its scales are tuned, and in graphs of fixed shapes with
        codes in two places.
        """
        return 2 + self.tunes + (self.static is not None)

    @property
    def evaluated(self) -> int:
        """Windows that the result is evaluated on."""
        return self.windows or DEFAULT_WINDOWS
