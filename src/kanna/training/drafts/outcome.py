"""How many guesses of a drafter are taken, before and after a fine-tune and its own training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kanna.benchmark.draft_prompts import DraftPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftOutcome:
    """What came of it.

    Attributes:
        guesser: `mtp`, or the draft model as it was named.
        prompts: What the model wrote after.
        base: Figures before, see `kanna.benchmark.drafting.figures`.
        tuned: Those after.
        retrained: Those of the drafter after it was trained on; {}: it was not.
        runtime: `tuned` and `retrained` as llama.cpp counts them, of a draft model; {}: it did not.
        steps: That training took.
        kept: Whether what was trained lies beside the adapter.
    """

    guesser: str
    prompts: list[DraftPrompt]
    base: dict[str, Any]
    tuned: dict[str, Any]
    retrained: dict[str, Any] = field(default_factory=dict[str, Any])
    runtime: dict[str, Any] = field(default_factory=dict[str, Any])
    steps: int = 0
    kept: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, with how many prompts there were."""
        return asdict(self) | {"prompts": len(self.prompts)}
