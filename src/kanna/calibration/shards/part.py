"""A shard: one of several parts of a calibration text, by its windows."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from kanna.calibration.windows import CalibrationWindows
from kanna.errors import UsageError

MOST = 4096
"""Shards of a text at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, given: str) -> Shard:
        """Of a text such as 2/4; raises UsageError for any other."""
        match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", given.strip())
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count <= MOST:
            raise UsageError(
                f"--shard {given}", expected=f"I/N, such as 2/4, with I from 1 to N, at most {MOST}"
            )
        return cls(number=number, count=count)

    def of(self, windows: CalibrationWindows) -> CalibrationWindows:
        """The windows of this part, which lie side by side in the text.

        Raises:
            UsageError: There are fewer windows than parts, or all of this part's are held out.
        """
        total = len(windows.ids)
        first, last = (total * i // self.count for i in (self.number - 1, self.number))
        held = windows.held
        if total < self.count or held[first:last].all():
            raise UsageError(
                f"the text has {total} windows of {windows.ids.shape[1]} tokens, too few for "
                f"{self.count} shards",
                expected="some windows for each",
                todo="give more --tokens, or fewer shards",
            )
        before = int(held[:first].sum())
        texts = windows.held_texts[before : before + int(held[first:last].sum())]
        return replace(
            windows,
            ids=windows.ids[first:last],
            domains=windows.domains[first:last],
            held=held[first:last],
            held_texts=texts,
            first=first,
        )
