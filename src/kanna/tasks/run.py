"""Tasks put to a model and to files of it, one engine each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kanna._util.progress import Progress
from kanna.runtimes.base import Engine
from kanna.tasks import ChosenTask
from kanna.tasks.answering import answers, require_numbers
from kanna.tasks.pairing import JudgedAnswers, TaskScore, judge, pair

_SILENT = "the original carries no chat template"


class OriginalAnswers:
    """What the original answers, to which files are compared.

    Args:
        chosen: The tasks.
        engine: The original, open until this returns.
        progress: Gets one question after another.

    Attributes:
        chosen: All tasks.
        skipped: The tasks that it cannot be asked, each with the reason.
        chat: Whether questions go through the chat template.
        judged: Its answers to the others, by the task's name.
    """

    def __init__(self, chosen: Sequence[ChosenTask], engine: Engine, progress: Progress) -> None:
        self.chat = bool(engine.chat_template)
        self.skipped: dict[str, str] = {}
        self.chosen = list(chosen)
        self.judged: dict[str, JudgedAnswers] = {}
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
            self.judged[one.name] = judge(one, given)

    def ask(self, engine: Engine, progress: Progress) -> dict[str, JudgedAnswers]:
        """Ask another model the same.

        Args:
            engine: The model, open until this returns.
            progress: Gets one question after another.

        Returns:
            Its answers by the task's name; nothing of tasks that were skipped.
        """
        require_numbers(engine)
        made: dict[str, JudgedAnswers] = {}
        for one in self.chosen:
            if one.name in self.skipped:
                progress.advance(len(one.examples), one.name)
                continue
            given = answers(engine, one, chat=self.chat, progress=progress)
            made[one.name] = judge(one, given, self.judged[one.name])
        return made

    def compare(self, engine: Engine, progress: Progress) -> list[TaskScore]:
        """Ask a file the same, and pair its answers with these.

        Args:
            engine: The file, open until this returns.
            progress: Gets one question after another.
        """
        return self.pair(self.ask(engine, progress))

    def pair(self, own: Mapping[str, JudgedAnswers]) -> list[TaskScore]:
        """Pair a file's answers with these, a score of every task.

        Args:
            own: The file's answers, see `ask`.
        """
        return [
            TaskScore(name=one.name, summary=one.task.summary, skipped=self.skipped[one.name])
            if one.name in self.skipped
            else pair(one, chat=self.chat, reference=self.judged[one.name], own=own[one.name])
            for one in self.chosen
        ]


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
