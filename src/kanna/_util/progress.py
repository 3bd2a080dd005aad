"""Progress of long work. Verbs report to a `Progress`; only the CLI draws."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one named stage after another."""

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None: ...

    def advance(self, amount: int, detail: str = "") -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Reports nowhere: the default of every verb called from Python."""

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        pass

    def advance(self, amount: int, detail: str = "") -> None:
        pass

    def finish(self) -> None:
        pass
