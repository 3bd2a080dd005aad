"""What `adapt` is asked for, held to itself before anything is opened: refusals, and who trains."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from kanna._util import extras
from kanna.benchmark.guesses import OWN_HEAD
from kanna.errors import UsageError
from kanna.sources import Source
from kanna.training import aware, objectives
from kanna.training.settings import FULL, MLX, TORCH, TrainingSettings

EXTRA = "adapt"


def with_teacher(objective: str, taught: bool) -> str:
    """The objective, which a teacher makes `distill` of.

    Args:
        objective: As it was asked for.
        taught: Whether there is a teacher.

    Raises:
        UsageError: It needs a teacher, or goes with none.
    """
    if not taught and objective == objectives.DISTILL:
        raise UsageError(f"the objective {objective} without a teacher", expected="--teacher MODEL")
    if taught and objective in objectives.PAIRS:
        raise UsageError(
            f"--teacher with --objective {objective}, which learns from pairs",
            expected="answers as they are: leave --objective out",
        )
    return objectives.DISTILL if taught else objective


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptRequest:
    """Options of `kanna.adapt`, which has words for each.

    Attributes:
        settings: How it is trained.
        rate: The learning rate that was asked for; None: that of the objective.
    """

    settings: TrainingSettings
    rate: float | None
    teacher: str | Path | Source | None
    max_length: int
    samples: int
    for_plan: str | Path | None
    verify: bool
    draft: str | Path | Source | None
    retrain_draft: bool
    backend: str | None
    device: str | None
    threads: int | None
    revision: str | None
    offline: bool

    def refuse(self) -> None:
        """Raise UsageError where options contradict each other, or make no sense."""
        self._refuse_both()
        self._refuse_sizes()
        self._refuse_for()
        self._chosen()

    def with_backend(self) -> AdaptRequest:
        """The same with who trains in its settings.

        Raises:
            UsageError: mlx is named and cannot do what is asked for.
            MissingError: What trains is not installed.
        """
        backend = self._chosen()
        extras.require(MLX if backend == MLX else EXTRA, "training")
        return replace(self, settings=replace(self.settings, backend=backend))

    def _chosen(self) -> str:
        """Who trains; UsageError where mlx is named and cannot do what is asked for."""
        settings = self.settings
        asked = {
            "--teacher": self.teacher is not None,
            "--for": self.for_plan is not None,
            "--device": self.device is not None,
            "--draft": self.draft is not None,
            "--objective": settings.objective != objectives.DEFAULT,
            "--base-bits": settings.base_bits is not None,
            "--method full": settings.method == FULL,
            "--packing": settings.packing is True,
        }
        of_torch = [option for option, is_asked in asked.items() if is_asked]
        if self.backend == MLX and of_torch:
            raise UsageError(
                f"--backend mlx with {of_torch[0]}",
                expected="an adapter, answers as they are, the base as it is",
                todo="leave one of them out",
            )
        if self.backend is not None:
            return self.backend
        apple = sys.platform == "darwin" and platform.machine() == "arm64"
        return MLX if apple and find_spec("mlx_lm") is not None and not of_torch else TORCH

    def _refuse_both(self) -> None:
        """Raise UsageError for options that contradict each other."""
        bits, device = self.settings.base_bits, self.device
        if self.settings.auto and self.rate is not None:
            raise UsageError(
                "--auto finds the learning rate, and --learning-rate names one",
                todo="leave one of them out",
            )
        if bits is not None and device not in (None, "cpu"):
            raise UsageError(
                f"--base-bits decodes on the CPU, and --device is {device}",
                expected="cpu",
                todo="leave one of them out",
            )
        if self.settings.method == FULL and self.draft is not None:
            raise UsageError(
                "--draft counts guesses beside an adapter, and --method full makes none",
                expected="--method lora",
                todo="leave one of them out; kanna bench --draft counts guesses from files",
            )
        if self.settings.packing and self.settings.objective in objectives.PAIRS:
            raise UsageError(
                f"--packing with --objective {self.settings.objective}, which pads pairs",
                expected="answers as they are",
                todo="leave one of them out",
            )
        if self.retrain_draft and self.draft is None:
            raise UsageError(
                "--retrain-draft without --draft", expected=f"--draft {OWN_HEAD} or --draft MODEL"
            )

    def _refuse_sizes(self) -> None:
        if not 0 <= self.samples <= 64:
            raise UsageError(f"--samples is {self.samples}", expected="0 to 64")
        if self.max_length < 8:
            raise UsageError(f"--max-length is {self.max_length}", expected="8 or more")

    def _refuse_for(self) -> None:
        """Raise for what training with the values of a plan does not go with."""
        if self.for_plan is None:
            return
        settings, reason, expected = self.settings, "", ""
        if settings.objective in objectives.PAIRS:
            reason, expected = f"--objective {settings.objective}", "answers as they are"
        elif settings.method in ("dora", FULL):
            reason = f"--method {settings.method}, whose changes are no sum"
            expected = "lora or rslora"
        elif settings.base_bits is not None:
            reason, expected = "--base-bits, which stores other values", "the base as floats"
        if reason:
            raise UsageError(
                f"--for with {reason}", expected=expected, todo="leave one of them out"
            )
        aware.require_runtime()
