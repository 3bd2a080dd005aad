"""What a fine-tune does to what drafts for the model: counted before and after.

What is counted: the model writes an answer to each held-out prompt, always the likeliest token,
and the drafter guesses four tokens at a time. Before, the base writes; after, the tuned model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_text
from kanna._util.progress import Progress
from kanna.benchmark import OWN_HEAD
from kanna.benchmark.draft_prompts import DraftPrompt
from kanna.evaluation.reference import reference_folder
from kanna.model import Tensor
from kanna.sources import Source, open_source
from kanna.training import causal_model
from kanna.training.drafts import own_head
from kanna.training.drafts.acceptance import Drafter, acceptance
from kanna.training.drafts.companion import CompanionModel
from kanna.training.drafts.own_head import OwnHead
from kanna.training.drafts.written_text import TargetModel, prompts

PROMPTS = "draft-prompts.jsonl"
"""Beside the adapter: prompts after which the model wrote, for `kanna bench --draft-prompts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftOutcome:
    """What came of it.

    Attributes:
        guesser: `mtp`, or the draft model as it was named.
        prompts: What the model wrote after.
        base: Figures before, see `kanna.benchmark.drafting.figures`.
        tuned: Those after.
    """

    guesser: str
    prompts: list[DraftPrompt]
    base: dict[str, Any]
    tuned: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"prompts": len(self.prompts)}

    def save(self, folder: Path) -> None:
        """Write beside an adapter what counts its guesses again.

        Args:
            folder: That of the adapter.
        """
        lines = "".join(f"{prompt.to_json()}\n" for prompt in self.prompts)
        write_text(folder / PROMPTS, lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPhase:
    """What drafts for the model that is tuned.

    Attributes:
        source: The small model, or the one whose own head drafts, from a folder.
        device: Where a small model runs.
        head: Tensors of the head; {}: a small model drafts.
    """

    source: Source
    device: str
    head: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @classmethod
    def of(
        cls, given: str | Path | Source, folder: Path, device: str, *, offline: bool, tell: Progress
    ) -> DraftPhase:
        """The one that a user named.

        Args:
            given: `mtp`, or a small model.
            folder: The model that is tuned.
            device: Where it runs.
            offline: Use only what is on this machine.
            tell: Where progress is reported.

        Raises:
            UsageError: The model has no head of its own.
        """
        if given == OWN_HEAD:
            source = open_source(folder)
            return cls(source=source, device=device, head=own_head.tensors_of(source))
        return cls(source=open_source(given, offline=offline, progress=tell), device=device)

    def check(self, tokenizer: Any, base: str) -> None:
        """Raise UsageError for a draft model of another vocabulary.

        Args:
            tokenizer: That of the model that is tuned.
            base: Its name.
        """
        if not self.head:
            causal_model.refuse_other_vocabulary(
                self.source, tokenizer, role="draft model", base=base
            )

    def run(self, adapted: Any, held_out: Sequence[Any], progress: Progress) -> DraftOutcome:
        """Count guesses before and after.

        Args:
            adapted: PEFT's model, at its best.
            held_out: Held-out examples in tokens.
            progress: Where progress is reported.
        """
        target = TargetModel(adapted)
        drafter = self._drafter(target)
        asked = prompts(held_out)
        sides: list[dict[str, Any]] = []
        for tuned in (False, True):
            with target.still(tuned=tuned):
                sides.append(acceptance(drafter, target.write(asked, progress)))
        base, after = sides
        return DraftOutcome(
            guesser=OWN_HEAD if self.head else self.source.given,
            prompts=asked,
            base=base,
            tuned=after,
        )

    def _drafter(self, target: TargetModel) -> Drafter:
        if self.head:
            return OwnHead(target, self.head)
        model = causal_model.load(reference_folder(self.source), self.device)
        return CompanionModel(model.eval().to(self.device), self.source.given)
