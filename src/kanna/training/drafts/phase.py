"""What a fine-tune does to what drafts for the model: counted before and after.

What is counted: the model writes an answer to each held-out prompt, always the likeliest token,
and the drafter guesses four tokens at a time. Before, the base writes; after, the tuned model does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kanna import families
from kanna._util import own_files
from kanna._util.atomic import write_text
from kanna._util.progress import Progress
from kanna.adapters import merged_source, open_adapter
from kanna.benchmark.guesses import OWN_HEAD
from kanna.evaluation.reference import reference_folder
from kanna.model import Tensor
from kanna.sources import Source, open_source
from kanna.training import causal_model, loop
from kanna.training.drafts import own_head
from kanna.training.drafts.acceptance import acceptance
from kanna.training.drafts.companion import CompanionModel
from kanna.training.drafts.companion_training import CompanionTraining
from kanna.training.drafts.head_training import HeadTraining
from kanna.training.drafts.outcome import DraftOutcome
from kanna.training.drafts.own_head import OwnHead
from kanna.training.drafts.runtime_count import RuntimeCount
from kanna.training.drafts.written_text import TargetModel, WrittenText, prompts
from kanna.training.loop import TrainingTask
from kanna.training.settings import TrainingSettings

PROMPTS = "draft-prompts.jsonl"
"""Beside the adapter: prompts after which the model wrote, for `kanna bench --draft-prompts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPhase:
    """What drafts for the model that is tuned.

    Attributes:
        source: The small model, or the one whose own head drafts, from a folder.
        base: The model that is tuned, as a folder of Hugging Face.
        device: Where a small model runs.
        threads: Threads to use.
        head: Tensors of the head; {}: a small model drafts.
        retrains: Whether it is trained on.
    """

    source: Source
    base: Path
    device: str
    threads: int
    head: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    retrains: bool = False

    @classmethod
    def of(
        cls,
        given: str | Path | Source,
        folder: Path,
        settings: TrainingSettings,
        *,
        threads: int,
        retrains: bool,
        offline: bool,
        tell: Progress,
    ) -> DraftPhase:
        """The one that a user named.

        Args:
            given: `mtp`, or a small model.
            folder: The model that is tuned.
            settings: How that is done.
            threads: Threads to use.
            retrains: Whether it is trained on.
            offline: Use only what is on this machine.
            tell: Where progress is reported.

        Raises:
            UsageError: The model has no head of its own.
            UnsupportedError: A draft model that llama.cpp cannot run is to be trained on.
        """
        own = given == OWN_HEAD
        source = open_source(folder if own else given, offline=offline, progress=tell)
        if retrains and not own:
            families.require_runtime(source.config)
        return cls(
            source=source,
            base=folder,
            device=settings.device,
            threads=threads,
            head=own_head.tensors_of(source) if own else {},
            retrains=retrains,
        )

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

    def run(self, adapted: Any, task: TrainingTask, folder: Path) -> DraftOutcome:
        """Count guesses before and after, and train the drafter on where that is asked for.

        Args:
            adapted: PEFT's model, at its best.
            task: How it was trained.
            folder: That of the adapter, which gets the prompts, and what was trained if it is
                better.
        """
        target, progress = TargetModel(adapted), task.progress
        drafter = self._drafter(target)
        asked = prompts(task.held_out)
        write_text(folder / PROMPTS, "".join(f"{prompt.to_json()}\n" for prompt in asked))
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
        return self._trained(drafter, task, texts, outcome, folder) if self.retrains else outcome

    def _drafter(self, target: TargetModel) -> OwnHead | CompanionModel:
        if self.head:
            return OwnHead(target, self.head)
        model = causal_model.load(reference_folder(self.source), self.device)
        return CompanionModel(model=model.eval().to(self.device), target=target)

    def _trained(
        self,
        drafter: OwnHead | CompanionModel,
        task: TrainingTask,
        texts: Sequence[WrittenText],
        outcome: DraftOutcome,
        folder: Path,
    ) -> DraftOutcome:
        """Train the drafter on, and keep it in the folder where more of its guesses are taken."""
        target = drafter.target
        # Another adapter, of a run that had more minutes, or another drafter begins anew.
        key = json.dumps([loop.fingerprint(target.adapted), self.source.hashes()])
        name = f"drafter-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        with task.checkpoints.phase(name) as checkpoints:
            task = replace(task, checkpoints=checkpoints)
            training = (
                HeadTraining.of(drafter, task)
                if isinstance(drafter, OwnHead)
                else CompanionTraining(draft=drafter, source=self.source, task=task)
            )
            run = training.run()
            with target.still():
                retrained = acceptance(training.trained, texts)
            written = training.write(folder)
            runtime = dict[str, Any]()
            if not self.head:
                runtime = self._in_llama_cpp(folder, written, task)
            before, after = (
                (runtime["tuned"], runtime["retrained"]) if runtime else (outcome.tuned, retrained)
            )
            kept = after["acceptance"] > before["acceptance"]
            if not kept:
                own_files.remove(written)
        checkpoints.remove()
        return replace(outcome, retrained=retrained, runtime=runtime, steps=run.steps, kept=kept)

    def _in_llama_cpp(self, folder: Path, written: Path, task: TrainingTask) -> dict[str, Any]:
        """Guesses of the draft model before and after, counted in llama.cpp; {} without it."""
        tuned = merged_source(open_source(self.base), [(open_adapter(folder), 1.0)])
        count = RuntimeCount(
            target=tuned,
            prompts=folder / PROMPTS,
            scratch=task.checkpoints.folder / "files",
            threads=self.threads,
            progress=task.progress,
        )
        drafts = {"tuned": self.source, "retrained": open_source(written)}
        return count.of(drafts)
