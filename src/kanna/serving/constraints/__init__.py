"""Shapes that answers are held to: measured before any engine compiles them.

A schema, a pattern or a grammar is a small program of a stranger's: forty bytes can ask for more
memory than there is. `measure` bounds what is written, `checker` what it costs: it is compiled, and
some tokens are tried, in a child process with limits of time and memory.
"""

from __future__ import annotations

from kanna.serving.constraints.checker import ConstraintChecker
from kanna.serving.constraints.kinds import Constraint, constraints_of
from kanna.serving.constraints.limits import ConstraintError
from kanna.serving.constraints.schema_size import is_branching

__all__ = [
    "Constraint",
    "ConstraintChecker",
    "ConstraintError",
    "constraints_of",
    "is_branching",
]
