"""What a fine-tune does to what drafts for the model: counted before and after.

What is counted: the model writes an answer to each held-out prompt, always the likeliest token,
and the drafter guesses four tokens at a time. Before, the base writes; after, the tuned model does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_text
from kanna._util.progress import Progress
from kanna.adapters import DRAFT_HEAD
from kanna.benchmark import OWN_HEAD
from kanna.benchmark.draft_prompts import DraftPrompt
from kanna.evaluation.reference import reference_folder
from kanna.model import Tensor
from kanna.sources import Source, open_source
from kanna.training import causal_model
from kanna.training.checkpoints import Checkpoints
from kanna.training.drafts import own_head
from kanna.training.drafts.acceptance import Drafter, acceptance
from kanna.training.drafts.companion import CompanionModel
from kanna.training.drafts.head_training import HeadTraining
from kanna.training.drafts.own_head import OwnHead
from kanna.training.drafts.written_text import TargetModel, plain, prompts
from kanna.training.loop import TrainingTask
from kanna.training.settings import TrainingSettings

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
        retrained: Those of the head after it was trained on; {}: it was not.
        steps: That this took.
        state: Its values, where more of its guesses are taken; {}: it stays as it was.
    """

    guesser: str
    prompts: list[DraftPrompt]
    base: dict[str, Any]
    tuned: dict[str, Any]
    retrained: dict[str, Any] = field(default_factory=dict[str, Any])
    steps: int = 0
    state: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: without values, but with whether they are `kept`."""
        names = ("guesser", "base", "tuned", "retrained", "steps")
        given = {name: getattr(self, name) for name in names}
        return given | {"prompts": len(self.prompts), "kept": bool(self.state)}

    def save(self, folder: Path) -> None:
        """Write beside an adapter what counts its guesses again.

        Args:
            folder: That of the adapter.
        """
        lines = "".join(f"{prompt.to_json()}\n" for prompt in self.prompts)
        write_text(folder / PROMPTS, lines)
        if self.state:
            from safetensors.torch import save_file

            save_file(self.state, folder / DRAFT_HEAD, {"format": "pt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPhase:
    """What drafts for the model that is tuned.

    Attributes:
        source: The small model, or the one whose own head drafts, from a folder.
        device: Where a small model runs.
        head: Tensors of the head; {}: a small model drafts.
        retrains: Whether the head is trained on.
    """

    source: Source
    device: str
    head: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    retrains: bool = False

    @classmethod
    def of(
        cls,
        given: str | Path | Source,
        folder: Path,
        settings: TrainingSettings,
        *,
        retrains: bool,
        offline: bool,
        tell: Progress,
    ) -> DraftPhase:
        """The one that a user named.

        Args:
            given: `mtp`, or a small model.
            folder: The model that is tuned.
            settings: How that is done.
            retrains: Whether the head is trained on.
            offline: Use only what is on this machine.
            tell: Where progress is reported.

        Raises:
            UsageError: The model has no head of its own.
        """
        if given == OWN_HEAD:
            source = open_source(folder)
            head = own_head.tensors_of(source)
            return cls(source=source, device=settings.device, head=head, retrains=retrains)
        source = open_source(given, offline=offline, progress=tell)
        return cls(source=source, device=settings.device)

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

    def run(self, adapted: Any, task: TrainingTask) -> DraftOutcome:
        """Count guesses before and after, and train the head on where that is asked for.

        Args:
            adapted: PEFT's model, at its best.
            task: How it was trained.
        """
        target, progress = TargetModel(adapted), task.progress
        drafter = self._drafter(target)
        asked = prompts(task.held_out)
        with target.still(tuned=False):
            base = acceptance(drafter, target.write(asked, progress))
        with target.still():
            texts = target.write(asked, progress)
            tuned = acceptance(drafter, texts)
        outcome = DraftOutcome(
            guesser=OWN_HEAD if self.head else self.source.given,
            prompts=asked,
            base=base,
            tuned=tuned,
        )
        if not (self.retrains and isinstance(drafter, OwnHead)):
            return outcome
        steps = _retrain(drafter, target, task)
        with target.still():
            retrained = acceptance(drafter, texts)
        better = retrained["acceptance"] > tuned["acceptance"]
        state = drafter.state() if better else {}
        return replace(outcome, retrained=retrained, steps=steps, state=state)

    def _drafter(self, target: TargetModel) -> Drafter:
        if self.head:
            return OwnHead(target, self.head)
        model = causal_model.load(reference_folder(self.source), self.device)
        return CompanionModel(model.eval().to(self.device), self.source.given)


def _retrain(head: OwnHead, target: TargetModel, task: TrainingTask) -> int:
    """Train the head on, in a folder of checkpoints of its own; returns the steps."""
    before = task.checkpoints.folder
    checkpoints = Checkpoints(before.with_name(f"{before.name}-head"))
    with checkpoints:
        run = HeadTraining(
            head=head,
            target=target,
            training=[plain(one) for one in task.training],
            held_out=[plain(one) for one in task.held_out],
            settings=task.settings,
            checkpoints=checkpoints,
            progress=task.progress,
        ).run()
    checkpoints.remove()
    return run.steps
