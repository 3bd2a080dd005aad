"""The report of a comparison, written again after every step."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna import report
from kanna.comparison.context import ComparisonContext
from kanna.comparison.description import describe_source
from kanna.comparison.pairs import pairs
from kanna.comparison.planning import base_name
from kanna.comparison.rows import CompareResult, Row, measured, recommend
from kanna.recommendation import source_facts
from kanna.sizing import room
from kanna.sizing.closeness import remember

_NOT_YET = "Not everything is measured yet."
_BEAT = 4.0
"""Seconds between two times that the page of a living run is written."""
_STOPPED = "stopped before everything was measured; run the command below again to go on"


@dataclass(slots=True, kw_only=True)
class LiveReport:
    """What is known so far.

    Attributes:
        context: What the steps work on.
        folder: Where the report lies.
        formats: Those of the artefacts.
        environment: The machine and the runtimes.
        command: The command line that repeats the comparison.
        rows: What is made so far.
        notes: Remarks so far.
        evaluation: On what and against what the artefacts were evaluated.
    """

    context: ComparisonContext
    folder: Path
    formats: list[str]
    environment: dict[str, str]
    command: str
    rows: list[Row] = field(default_factory=list[Row])
    notes: list[str] = field(default_factory=list[str])
    evaluation: dict[str, Any] = field(default_factory=dict[str, Any])
    _shown: dict[str, Any] = field(default_factory=dict[str, Any], init=False)
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False)

    def add_notes(self, notes: list[str]) -> None:
        """Add those that are new."""
        self.notes += [n for n in dict.fromkeys(notes) if n not in self.notes]

    def show(self, doing: str) -> None:
        """Write the page of a comparison that goes on.

        Args:
            doing: What is done now.
        """
        data = self._result(doing).to_dict()
        with self._writing:
            self._shown = data
            report.write_page(data, self.folder)

    @contextmanager
    def beating(self) -> Generator[None]:
        """Write the page again every few seconds, so that one that is not tells of a dead run."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT):
                with self._writing, suppress(OSError):  # a full disk is the next step's to tell
                    if self._shown and not over.is_set():
                        self._shown["unfinished"]["written"] = time.time()
                        report.write_page(self._shown, self.folder)

        thread = threading.Thread(target=beat, name="report", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def stop(self) -> None:
        """Write the page of a comparison that was stopped."""
        if self.rows:
            report.write_page(self._result(_STOPPED, stopped=True).to_dict(), self.folder)

    def finish(self) -> CompareResult:
        """Write the whole report, with a card for every artefact."""
        result = self._result()
        report.write(result.to_dict(), self.folder)
        for name in self.formats:
            remember(self.context.source, name, measured(self.rows, name))
        return result

    def _result(self, doing: str = "", *, stopped: bool = False) -> CompareResult:
        source, model = self.context.source, self.context.model
        if doing:
            pick = {"name": "", "why": _NOT_YET, "rule": "", "keep_source": False}
        else:
            facts = source_facts(source, self.formats, room=room(model, self.formats))
            pick = recommend(self.rows, facts)
        return CompareResult(
            name=base_name(source),
            source=describe_source(source, model),
            rows=self.rows,
            recommended=pick,
            evaluation=self.evaluation,
            environment=self.environment,
            command=self.command,
            pairs=[] if doing else pairs(self.rows),
            notes=self.notes,
            report=str(self.folder / "report.html"),
            unfinished=(
                {"doing": doing, "stopped": stopped, "written": time.time()} if doing else {}
            ),
        )
