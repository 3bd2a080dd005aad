"""A draft model, trained to guess what the tuned model writes.

The tuned model is its teacher: an adapter of the draft model learns the training texts, and what
the tuned model says at each of their learned tokens, as with `--teacher`. The adapter is merged, so
that what is left is a draft model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from kanna.evaluation.reference import reference_folder
from kanna.merging import merge
from kanna.sources import Source, open_source
from kanna.tracking import TrackedRun
from kanna.training import loop, memory, objectives, teacher
from kanna.training.drafts import DRAFT_MODEL
from kanna.training.drafts.companion import CompanionModel
from kanna.training.drafts.written_text import plain
from kanna.training.loop import TrainingTask
from kanna.training.run import TrainingRun

_ADAPTER = "draft-adapter"


@dataclass(slots=True, kw_only=True)
class CompanionTraining:
    """One run.

    Attributes:
        draft: The draft model as it was.
        source: The same, as the user named it.
        task: How the model that is drafted for was trained, with checkpoints of the draft's own.
        trained: The draft model at its best, afterwards.
    """

    draft: CompanionModel
    source: Source
    task: TrainingTask
    trained: CompanionModel = field(init=False)

    def run(self) -> TrainingRun:
        """Train, from the last checkpoint on; returns what came of it."""
        task, target = self.task, self.draft.target
        texts = [[plain(one) for one in part] for part in (task.training, task.held_out)]
        file = task.checkpoints.teacher
        with target.still():
            training, held_out = teacher.teach(texts, lambda: target.adapted, file, task.progress)
        usual = objectives.get(objectives.DISTILL).learning_rate
        pairs = task.settings.objective in objectives.PAIRS  # which are learned more slowly
        settings = replace(
            task.settings,
            objective=objectives.DISTILL,
            method="lora",
            auto=False,
            base_bits=None,
            learning_rate=usual if pairs else task.settings.learning_rate,
        )
        longest = max(len(one.ids) for one in training)
        step, _ = memory.fitting(self.draft.model, settings, longest, task.progress)
        own = replace(
            task,
            model=self.draft.model,
            training=training,
            held_out=held_out,
            settings=settings,
            step=step,
            tracked=TrackedRun(name="draft"),  # its steps would be taken for those of the adapter
            row_length=None,  # whether this model keeps examples apart is not known
            begin=None,
            planned=None,
        )
        adapted, run = loop.train(own)
        self.trained = replace(self.draft, model=adapted)
        return run

    def write(self, folder: Path) -> Path:
        """Write the draft model beside an adapter; returns its folder.

        Args:
            folder: That of the adapter.
        """
        lora = self.task.checkpoints.folder / _ADAPTER
        base = reference_folder(self.source)
        adapted = self.trained.model
        adapted.peft_config["default"].base_model_name_or_path = str(base)
        adapted.save_pretrained(str(lora), save_embedding_layers=False)
        merge(open_source(base), lora, folder / DRAFT_MODEL, progress=self.task.progress)
        return folder / DRAFT_MODEL
