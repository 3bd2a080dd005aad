"""What the user of an adapter must know of its training, in sentences without a full stop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kanna.training import memory, objectives, rate_finder
from kanna.training.examples import Examples
from kanna.training.run import TrainingRun
from kanna.training.settings import FULL, TrainingSettings
from kanna.training.tokens import ChatTokenizer

_FEW = 20


def of(
    settings: TrainingSettings,
    read: Examples[Any],
    near: int,
    chats: ChatTokenizer,
    run: TrainingRun,
) -> list[str]:
    """The notes of a run.

    Args:
        settings: How it was trained.
        read: The data.
        near: Examples that are nearly the same as another one.
        chats: Rendered and cut them.
        run: What came of it.
    """
    notes = [*_of_data(settings, read, near, chats), *_of_run(settings, run)]
    if len(read.examples) < _FEW:
        notes.append(
            f"{len(read.examples)} examples are few: a held-out loss of so few says little"
        )
    return notes


def _of_data(
    settings: TrainingSettings, read: Examples[Any], near: int, chats: ChatTokenizer
) -> list[str]:
    unlearned = "examples had no answer left within that length"
    if settings.objective in objectives.PAIRS:
        unlearned = "pairs were left out: within that length an answer is empty, or both are equal"
    pairs = [
        (read.duplicates, "examples were there twice, and are left out once"),
        (
            near,
            "examples are nearly the same as another one: they are kept, and none of them is held "
            "out while the other is learned",
        ),
        (chats.cut, f"examples are longer than {chats.most} tokens, and were cut"),
        (chats.unlearned, unlearned),
        (
            chats.partial,
            "conversations teach their last answer alone: the template writes earlier ones "
            "otherwise",
        ),
    ]
    return [f"{count} {what}" for count, what in pairs if count]


def _of_run(settings: TrainingSettings, run: TrainingRun) -> list[str]:
    notes: list[str] = []
    if run.resumed:
        notes.append(f"went on after step {run.resumed} of a run that had been ended")
    fastest = memory.MicroBatch.of(settings)
    step = replace(fastest, together=run.micro_batch, recomputes=run.recomputes)
    if step != fastest:
        notes.append(f"for want of memory {step.words()}; what a step learns is the same")
    if run.rate_test:
        notes.append(rate_finder.words(run.rate_test))
    if run.best_step == 0:
        full = settings.method == FULL
        unchanged = f"the {'model is as its base' if full else 'adapter changes nothing'}"
        notes.append(
            f"nothing that was tried lowers the held-out loss: {unchanged}. Try more examples, or "
            "a lower --learning-rate"
        )
    if run.stopped == "nan":
        notes.append(
            "the loss was no number in the end: the best state before it is kept. Try a lower "
            "--learning-rate"
        )
    return notes
