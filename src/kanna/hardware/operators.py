"""Which encodings each backend of llama.cpp multiplies, by its own operator tables.

`operators.json` is made from them by tools/operator_tables.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("operators.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTable:
    """One backend.

    Attributes:
        name: As llama.cpp calls its table.
        date: Day of the table, or of the snapshot it was read from.
        version: Commit of llama.cpp.
        matrices: Encodings whose matrices it multiplies.
        experts: The same of stacked experts.
        refused: Encodings that it was asked to multiply and does not, of either kind.
        cache: Types that its attention reads keys and values in.
        documented: Encodings that its page names and its table does not have.
        formats: Names of the formats that llama.cpp loads; of others the table says nothing.
    """

    name: str
    date: str
    version: str
    matrices: frozenset[str]
    experts: frozenset[str]
    refused: frozenset[str]
    cache: frozenset[str]
    documented: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset({"gguf"})

    def multiplies(self, encoding: str, *, stacked: bool = False) -> bool:
        """Whether the table says that weights in an encoding are multiplied.

        Args:
            encoding: Its name.
            stacked: Whether the weights are those of experts.
        """
        return encoding in (self.experts if stacked else self.matrices)


@cache
def tables() -> Mapping[str, OperatorTable]:
    """Every backend by name."""
    read: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    made: dict[str, OperatorTable] = {}
    for name, one in read["backends"].items():
        refused = {*one["matrices"]["refused"], *one["experts"]["refused"]}
        multiplied = {*one["matrices"]["multiplied"]}
        made[name] = OperatorTable(
            name=name,
            date=one["date"],
            version=read["version"],
            matrices=frozenset(multiplied),
            experts=frozenset(one["experts"]["multiplied"]),
            refused=frozenset(refused),
            cache=frozenset(one["cache"]),
            documented=frozenset(one.get("documented", ())) - multiplied,
        )
    return made
