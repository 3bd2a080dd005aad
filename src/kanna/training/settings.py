"""How an adapter is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kanna.errors import UsageError

FULL = "full"
METHODS = ("lora", "rslora", "dora", FULL)
TORCH, MLX = BACKENDS = ("torch", "mlx")
"""Who trains: PEFT and TRL, or mlx-lm."""
RANK = 16
"""Of the changes, unless another is asked for."""
FULL_RATE = 0.1
"""Of a learning rate for changes beside the weights, for the weights themselves (Schulman et al.
2025, LoRA Without Regret: thinkingmachines.ai/blog/lora)."""


def usual_rate(of_changes: float, method: str) -> float:
    """The learning rate unless another is asked for.

    Args:
        of_changes: That of an objective, for changes beside the weights.
        method: One of METHODS.
    """
    return of_changes * (FULL_RATE if method == FULL else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Settings of one run; the defaults are for models of some hundred million weights on a CPU.

    Attributes:
        objective: What is learned: a file of `objectives`.
        method: One of METHODS.
        rank: Rank of the low-rank changes.
        alpha: Their strength, by rank; None: twice the rank.
        learning_rate: Of AdamW.
        auto: Whether the learning rate is found by a test first, and `learning_rate` is what is
            taken where no rate helps.
        beta: How much a preference weighs, where pairs are learned.
        epochs: How often all examples are read at most.
        steps: Steps at most; None: by the epochs.
        minutes: Minutes at most; the best state until then is kept.
        batch: Examples of one step.
        packing: Whether they share rows, in the place of padding; None: where that saves enough.
        look_every: Steps between two looks at the held-out loss; None: an eighth of the run.
        seed: Of the split, the order and the first values.
        device: `cpu`, `cuda` or `mps`.
        base_bits: Bits that the base is held in; None: as floats.
        backend: One of BACKENDS.
    """

    objective: str = "sft"
    method: str = "lora"
    rank: int = RANK
    alpha: float | None = None
    learning_rate: float = 5e-4
    auto: bool = False
    beta: float = 0.1
    epochs: float = 3.0
    steps: int | None = None
    minutes: float = 8.0
    batch: int = 4
    packing: bool | None = None
    look_every: int | None = None
    seed: int = 0
    device: str = "cpu"
    base_bits: int | None = None
    backend: str = TORCH

    def __post_init__(self) -> None:
        """Raise UsageError for settings that make no sense."""
        if self.method not in METHODS:
            raise UsageError(f"no method {self.method!r}", expected=", ".join(METHODS))
        if self.backend not in BACKENDS:
            raise UsageError(f"no backend {self.backend!r}", expected=" or ".join(BACKENDS))
        if self.base_bits not in (None, 4, 8):
            raise UsageError(f"--base-bits is {self.base_bits}", expected="4 or 8")
        if self.base_bits is not None and self.method == "dora":
            raise UsageError(
                "--method dora needs the lengths of the base's own rows, and --base-bits holds "
                "them in few bits",
                expected="lora or rslora",
            )
        if self.method == FULL:
            self._refuse_beside()
        limits: list[tuple[str, float | None, float, float]] = [
            ("rank", self.rank, 1, 1024),
            ("alpha", self.alpha, 1e-3, 1e4),
            ("learning-rate", self.learning_rate, 1e-8, 1.0),
            ("beta", self.beta, 1e-4, 100.0),
            ("epochs", self.epochs, 1e-3, 1000),
            ("steps", self.steps, 1, 10**7),
            ("minutes", self.minutes, 1e-3, 10**6),
            ("batch", self.batch, 1, 4096),
        ]
        for name, value, low, high in limits:
            if value is not None and not low <= value <= high:
                raise UsageError(
                    f"--{name} is {value:,}",
                    expected=f"{low:,} to {high:,}",
                    todo=f"give a number between these, or leave --{name} out for its default",
                )

    def _refuse_beside(self) -> None:
        """Raise UsageError for settings of changes beside the weights."""
        beside = {
            "--base-bits": self.base_bits is not None,
            "--rank": self.rank != RANK,
            "--alpha": self.alpha is not None,
            "--objective dpo": self.objective == "dpo",
            "--backend mlx": self.backend == MLX,
        }
        if asked := next((option for option, is_asked in beside.items() if is_asked), None):
            raise UsageError(
                f"{asked} with --method full, which trains the weights themselves and keeps no "
                "base beneath them",
                expected="--method lora",
                todo=f"take that, or leave {asked} out",
            )

    @property
    def strength(self) -> float:
        """Alpha."""
        return 2.0 * self.rank if self.alpha is None else self.alpha

    def total_steps(self, examples: int) -> int:
        """Steps at most, of so many examples."""
        by_epochs = math.ceil(self.epochs * math.ceil(examples / self.batch))
        return max(1, min(by_epochs, self.steps or by_epochs))

    def lora(self) -> dict[str, Any]:
        """Arguments of PEFT's LoraConfig."""
        return {
            "r": self.rank,
            "lora_alpha": self.strength,
            "lora_dropout": 0.0,
            "target_modules": "all-linear",
            "use_rslora": self.method == "rslora",
            "use_dora": self.method == "dora",
            "task_type": "CAUSAL_LM",
        }
