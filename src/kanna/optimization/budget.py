"""What the user allows, as bytes of an artefact."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bytes of the artefact, as its format counts them, and the budget in the user's words."""

    nbytes: int
    words: str
