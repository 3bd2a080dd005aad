"""What the user asks of an optimization, validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.units import format_size
from kanna.calibration import TOKENS
from kanna.errors import UsageError
from kanna.escaping import argument, shell_line
from kanna.hardware.targets import TargetChoice
from kanna.optimization.speed import OBJECTIVES
from kanna.verification.retention import LEAST

_DEFAULTS = {"effort": "balanced", "tokens": TOKENS, "retention": LEAST, "objective": "quality"}
"""Values of the command line's options when none is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How far a search goes.

    Attributes:
        probing: Whether predictions are corrected by measurements in the runtime.
        swaps: Trials of the local search at most, where the format has one.
        correction: Whether values are chosen again by what quantized layers before them give.
        tuning: Whether scales and norms are tuned against the original.
    """

    summary: str
    probing: bool = True
    swaps: int = 0
    correction: bool = False
    tuning: bool = False


EFFORTS = {
    "fast": Effort(summary="Trust predictions", probing=False),
    "balanced": Effort(
        summary="Correct predictions by measuring every kind of matrix in the runtime"
    ),
    "max": Effort(
        summary="Then try swaps of encodings there until none gains, choose values again by what "
        "quantized layers before them give (both GGUF alone), and tune scales and norms",
        swaps=64,
        correction=True,
        tuning=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeRequest:
    """One budget, what the user demands of some tensors, and how far to go; see `optimize`.

    Exactly one of size, bpw, like and memory is given.

    Attributes:
        min_speed: Tokens per second that must be generated, as predicted; None: as it comes.
        objective: `quality`, `balanced` or `speed`, see `kanna.optimization.speed`.
        speeds: A file of costs of encodings; None: those of the target or of this machine.
        target: The device as the user named it, and `chosen_target` what that is.
        provider: The execution provider that a folder for onnxruntime is for.
        static: CHUNKxCONTEXT of its graphs, where shapes are fixed.
        format_named: Whether the user named the format, so that the command line names it, too.
        adapter: Adapters that are merged into the source, with their weights.
        apart: Whether they stay beside it instead, each by itself.
        data: Held-out examples of the fine-tune; None: those beside the adapter.
        retention: Least share of its gain that must be kept.
        recover: Whether scales and norms are tuned on the calibration text, which is of the domain.
        guard: Tasks that the file must not lose, with tolerances; `examples` of each at most.
        size_max: Bytes that the guard may make of the file; None: 8 bits for every matrix.
        time_budget: Seconds that all stages together may take; None: as long as it takes.
        named: Of effort, tokens and windows, those that such a budget leaves as they are.

    Raises:
        UsageError: The budget is not given in exactly one way or is nothing, there is no such
            effort, the output is a file, examples judge no adapter, or no text is there to recover
            on.
    """

    source: str | Path
    out: Path
    format: str
    format_named: bool = True
    adapter: Sequence[tuple[str, float]] = ()
    apart: bool = False
    data: Sequence[str | Path] | None = None
    retention: float = LEAST
    recover: bool = False
    guard: Sequence[str] = ()
    examples: int | None = None
    size_max: int | None = None
    size: int | None = None
    bpw: float | None = None
    like: str | None = None
    memory: int | None = None
    context: int = 4096
    min_speed: float | None = None
    objective: str = "quality"
    speeds: str | Path | None = None
    target: str | None = None
    chosen_target: TargetChoice | None = None
    provider: str | None = None
    static: str | None = None
    calibration: Sequence[str | Path] | None = None
    tokens: int = TOKENS
    effort: str = "balanced"
    time_budget: float | None = None
    named: Sequence[str] = ("effort", "tokens", "windows")
    keep: Sequence[str] = ()
    exclude: Sequence[str] = ()
    rules: Mapping[str, str] = field(default_factory=dict[str, str])
    text: str | Path | None = None
    windows: int | None = None
    revision: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise UsageError(f"no effort {self.effort!r}", expected=" or ".join(EFFORTS))
        if self.objective not in OBJECTIVES:
            raise UsageError(f"no objective {self.objective!r}", expected=" or ".join(OBJECTIVES))
        if self.min_speed is not None and not self.min_speed > 0:
            raise UsageError(f"a speed of {self.min_speed:g} tokens/s", expected="more than 0")
        if self.speeds is not None and not self.counts_speed:
            raise UsageError(
                "costs of encodings were named, and nothing is asked of the speed",
                expected="--min-speed or --objective",
            )
        if not 0 <= self.retention <= 1:
            raise UsageError(f"a retention of {self.retention}", expected="a share from 0 to 1")
        if self.data is not None and not self.adapter:
            raise UsageError("held-out examples were named, and no adapter", expected="--adapter")
        if self.apart:
            self._check_apart()
        if self.recover and not self.calibration:
            raise UsageError(
                "--recover tunes on text of the domain, and none was given",
                expected="--calibration with files of it",
                todo="name the data that was trained on, or texts that the model will meet",
            )
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(
                f"{self.out} is a file", expected="a folder, which is made when it is absent"
            )

    def _check_apart(self) -> None:
        """Raise UsageError for what means nothing where adapters stay apart."""
        if not self.adapter:
            raise UsageError(
                "--apart says how adapters lie, and none was named", expected="--adapter FOLDER"
            )
        weighted = next((name for name, weight in self.adapter if weight != 1), None)
        if weighted is not None:
            raise UsageError(
                f"--apart with a weight of {weighted}",
                expected="--adapter FOLDER: a runtime is told the weight when it switches it on",
            )
        if self.data is not None and len(self.adapter) > 1:
            raise UsageError(
                f"--data was named for {len(self.adapter)} adapters apart",
                expected="held-out.jsonl in the folder of each, which judges it alone",
                todo="copy the examples that judge an adapter there",
            )
        if self.recover:
            raise UsageError(
                "--recover and --apart were given together",
                expected="one of them: a base that others ride on is not tuned to one domain",
            )

    @property
    def counts_speed(self) -> bool:
        """Whether anything is asked of the speed."""
        return self.min_speed is not None or self.objective != "quality"

    def check_budget(self) -> None:
        """Raise UsageError unless exactly one budget is given, and it is more than nothing."""
        budgets = {"size": self.size, "bpw": self.bpw, "like": self.like, "memory": self.memory}
        names = [name for name, value in budgets.items() if value is not None]
        if len(names) != 1:
            problem = (
                " and ".join(f"--{n}" for n in names) + " were given together"
                if names
                else "no budget was given"
            )
            raise UsageError(problem, expected="one of --size, --bpw, --like and --memory")
        self._check_most()
        if min(v for v in (self.size, self.bpw, self.memory, 1) if v is not None) <= 0:
            raise UsageError("a budget of nothing", expected="more than 0")
        if self.bpw is not None and not self.bpw <= 32:
            raise UsageError(f"{self.bpw} bits per weight", expected="more than 0, at most 32")

    def _check_most(self) -> None:
        """Raise UsageError for a largest size of a guarded file that means nothing."""
        if self.size_max is None:
            return
        if not self.guard:
            raise UsageError(
                "--size-max says how far a guard may go, and none was given", expected="--guard"
            )
        if self.memory is not None:
            raise UsageError(
                "--size-max and --memory were given together",
                expected="--memory alone, which a guard keeps to",
            )
        if self.size_max < (self.size or 1):
            raise UsageError(
                f"--size-max {format_size(self.size_max)}",
                expected=f"at least --size, {format_size(self.size or 1)}",
            )

    def command(self) -> str:
        """The command line that does the same again, without options at their defaults."""
        options: dict[str, Any] = {
            "adapter": tuple(f"{n}" if w == 1 else f"{n}={w:g}" for n, w in self.adapter),
            "apart": self.apart or None,
            "data": tuple(self.data or ()),
            "retention": self.retention,
            "recover": self.recover or None,
            "guard": tuple(self.guard),
            "examples": self.examples,
            "format": self.format if self.format_named else None,
            "size-max": f"{self.size_max}B" if self.size_max else None,
            "size": self.size,
            "bpw": self.bpw,
            "like": self.like,
            "memory": self.memory,
            "context": self.context if self.memory else None,
            "min-speed": self.min_speed,
            "objective": self.objective,
            "speeds": self.speeds,
            "target": self.target,
            "provider": self.provider,
            "static": self.static,
            "effort": self.effort if "effort" in self.named else None,
            "time-budget": f"{self.time_budget:g}s" if self.time_budget else None,
            "calibration": tuple(self.calibration or ()),
            "tokens": self.tokens if "tokens" in self.named else None,
            "keep": tuple(self.keep),
            "exclude": ",".join(self.exclude) or None,
            "rule": tuple(f"{p}={e}" for p, e in self.rules.items()),
            "text": self.text,
            "windows": self.windows,
            "revision": self.revision,
        }
        words = ["kanna", "optimize", argument(self.source), "-o", argument(self.out)]
        for name, value in options.items():
            if value is None or value == () or value == _DEFAULTS.get(name):
                continue
            if value is True:
                words.append(f"--{name}")
                continue
            for item in value if isinstance(value, tuple) else (value,):
                words += [f"--{name}", f"{item:g}" if isinstance(item, float) else str(item)]
        return shell_line(words)
