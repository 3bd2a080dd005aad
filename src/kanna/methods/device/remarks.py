"""What the user should know of what did not run on a device."""

from __future__ import annotations


class _Remarks:
    """Lines for the user, each once in a process; they wait until someone shows them."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._waiting: list[str] = []

    def add(self, text: str) -> None:
        """Keep a line, unless it was there before."""
        if text not in self._known:
            self._known.add(text)
            self._waiting.append(text)

    def taken(self) -> list[str]:
        """The lines that wait, which then wait no longer."""
        waiting, self._waiting = self._waiting, []
        return waiting


remarks = _Remarks()
"""What did not run on a device, and why."""
