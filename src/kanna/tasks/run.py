"""Tasks put to a model and to files of it, one engine each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanna._util.progress import Progress
from kanna.runtimes.base import Engine
from kanna.tasks import ChosenTask
from kanna.tasks.answering import answers, require_numbers
from kanna.tasks.base import TaskAnswer
from kanna.tasks.pairing import TaskScore, pair

_SILENT = "the original carries no chat template"


class OriginalAnswers:
    """What the original answers, to which files are compared.

    Args:
        chosen: The tasks.
        engine: The original, open until this returns.
        progress: Gets one question after another.

    Attributes:
        chosen: All tasks.
        asked: The tasks that it can be asked.
        skipped: The others, each with the reason.
        chat: Whether questions go through the chat template.
    """

    def __init__(self, chosen: Sequence[ChosenTask], engine: Engine, progress: Progress) -> None:
        self.chat = bool(engine.chat_template)
        self.asked: list[ChosenTask] = []
        self.skipped: dict[str, str] = {}
        self.chosen = list(chosen)
        self._answers: dict[str, list[TaskAnswer]] = {}
        require_numbers(engine)
        for one in chosen:
            if one.task.needs_chat and not self.chat:
                self.skipped[one.name] = _SILENT
                progress.advance(len(one.examples), one.name)
                continue
            given = answers(engine, one, chat=self.chat, progress=progress)
            if all(answer.failure for answer in given):
                self.skipped[one.name] = f"of the original: {given[0].failure}"
                continue
            self.asked.append(one)
            self._answers[one.name] = given

    def compare(self, engine: Engine, progress: Progress) -> list[TaskScore]:
        """Ask a file the same, and pair its answers with these.

        Args:
            engine: The file, open until this returns.
            progress: Gets one question after another.
        """
        require_numbers(engine)
        scores: list[TaskScore] = []
        for one in self.chosen:
            if one.name in self.skipped:
                scores.append(
                    TaskScore(
                        name=one.name, summary=one.task.summary, skipped=self.skipped[one.name]
                    )
                )
                progress.advance(len(one.examples), one.name)
                continue
            given = answers(engine, one, chat=self.chat, progress=progress)
            original = self._answers[one.name]
            scores.append(pair(one, chat=self.chat, reference=original, answers=given))
        return scores


def remarks(path: Path, scores: Sequence[TaskScore]) -> list[str]:
    """What a person should know of the scores of a file.

    Args:
        path: The file.
        scores: Its scores.
    """
    notes = [f"{s.name} was not asked: {s.skipped}" for s in scores if s.skipped]
    silent = [s.name for s in scores if not s.skipped and not s.reference_solved]
    if silent:
        notes.append(
            f"the original solves nothing of {', '.join(silent)}: that says nothing of {path.name}"
        )
    return notes
