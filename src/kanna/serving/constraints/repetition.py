"""How large a text of brackets and counted repetitions becomes once it is written out.

Patterns and grammars share this much: brackets group, and `{2,5}`, `*`, `+` and `?` repeat what
stands before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kanna.serving.constraints.limits import (
    MAX_COUNT,
    MAX_EXPANSION,
    MAX_NESTING,
    ConstraintError,
    hold,
)

_COUNT = re.compile(r"\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}")
# What is left open goes to the end: a bracket that is looked for again and again would take the
# square of the length.
_PATTERN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]?|\{[\d\s,]*\}|.", re.S)
_GRAMMAR = re.compile(
    r"""\#[^\n]*|"(?:\\.|[^"\\\n])*"?|\[(?:\\.|[^\]\\])*\]?|\{[\d\s,]*\}|::=|[\w.-]+|\S""", re.S
)


@dataclass(slots=True)
class _Group:
    """Parts since a bracket was opened, and the last of them, which a repetition multiplies."""

    size: int = 0
    last: int = 0

    def append(self, size: int) -> None:
        self.size += size
        self.last = size

    def repeat(self, times: int) -> None:
        self.size += self.last * (times - 1)
        self.last *= times


def measure_pattern(pattern: str) -> None:
    """Raise ConstraintError where a regular expression is too large once it is written out.

    Args:
        pattern: As JSON Schema has it.
    """
    _measure((match[0] for match in _PATTERN.finditer(pattern)), "the pattern")


def measure_rules(grammar: str) -> None:
    """Raise ConstraintError where a rule of a grammar is too large once it is written out.

    Args:
        grammar: In GBNF, llama.cpp's notation.
    """
    tokens = (match[0] for match in _GRAMMAR.finditer(grammar))
    _measure((token for token in tokens if not token.startswith("#")), "the grammar")


def _measure(tokens: Iterator[str], what: str) -> None:
    groups = [_Group()]
    for token in tokens:
        if token == "(":
            groups.append(_Group())
            hold(f"{what} nests brackets:", len(groups) - 1, MAX_NESTING)
        elif token == ")" and len(groups) > 1:
            ended = groups.pop()
            groups[-1].append(max(1, ended.size))
        elif token == "::=":
            groups = [_Group()]
        elif token[0] == "{" and (count := _COUNT.fullmatch(token)):
            groups[-1].repeat(_times(count, what))
        else:
            groups[-1].append(1)
        if groups[-1].size > MAX_EXPANSION:
            hold(f"parts of {what}, repetitions written out:", groups[-1].size, MAX_EXPANSION)


def _times(count: re.Match[str], what: str) -> int:
    """How often `{least,most}` writes down what it repeats."""
    least_text, comma, most_text = count.groups()
    if max(len(least_text), len(most_text)) > 12:
        raise ConstraintError(
            f"{what} repeats {count[0][:40]} times, at most {MAX_COUNT:,} are allowed"
        )
    least = int(least_text or 0)
    most = int(most_text) if most_text else None if comma else least
    if most is not None and most < least:
        raise ConstraintError(
            f"{what} repeats {count[0]}: at least {least:,} and at most {most:,} are no number"
        )
    hold(f"{what} repeats {count[0]}:", max(least, most or 0), MAX_COUNT)
    return max(1, least, most or 0)
