"""A process that performs steps for a run: `python -m kanna.recipes.step_process`.

It takes a step per line, tells how far it is, and ends with what became of the step.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kanna._util.kept_process import listen
from kanna._util.processes import end_with_parent
from kanna.recipes import step_run
from kanna.recipes.document import Value
from kanna.recipes.step_run import StepCall

MODULE = "kanna.recipes.step_process"
Tell = Callable[[dict[str, Any]], None]
_EVERY = 0.1
"""Seconds between two lines about the same stage."""


class ToldProgress:
    """Progress that is told to another process.

    Args:
        tell: Sends a line.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._amount, self._last = 0, 0.0

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage of `total` units."""
        self._amount, self._last = 0, time.monotonic()
        self._tell({"start": [stage, total, unit]})

    def advance(self, amount: int, detail: str = "") -> None:
        """Count units that are done."""
        self._amount += amount
        if time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._tell({"advance": [self._amount, detail]})
            self._amount = 0

    def finish(self) -> None:
        """End the stage."""
        self._tell({"finish": []})

    def remark(self, text: str) -> None:
        """Show lines above the bars."""
        self._tell({"show": [text]})


def task_of(call: StepCall) -> dict[str, Any]:
    """A step as this process takes it."""
    return {
        "name": call.instance.id,
        "step": call.instance.step,
        "verb": call.instance.verb,
        "options": dict(call.options),
        "key": call.key,
        "folder": str(call.folder),
    }


def _perform(tell: Tell, *, folder: str, options: dict[str, Value], **names: str) -> None:
    def remark(text: str) -> None:
        tell({"remark": [text]})

    call = StepCall.of(folder=Path(folder), options=options, **names)
    record = step_run.run(call, ToldProgress(tell), remark)
    tell({"record": record.model_dump(mode="json")})


if __name__ == "__main__":
    # A shell has the programs that it starts in the background ignore it, and so their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    sys.exit(listen(_perform))
