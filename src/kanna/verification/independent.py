"""The reference itself, checked against the source's own library where that is installed.

Artefact and reference are both read through our families, so a wrong family would agree with
itself; transformers would not agree with it.
"""

from __future__ import annotations

from pathlib import Path

from kanna.checks import DIFFERS, OWN, UNCHECKED, Check
from kanna.evaluation import reference_check
from kanna.sources import Source

EXTRA = "torch"


def check(source: Source, reference: Path, threads: int | None = None) -> list[Check]:
    """One check; none where the reference is the source itself, in its own library.

    Args:
        source: What the artefact was made of.
        reference: What it was compared with.
        threads: Threads to use; None: one per physical core.
    """
    checked = reference_check.check(source, reference, threads=threads)
    if checked.status == OWN:
        return []
    not_made = checked.status == UNCHECKED
    # That the library is not here or does not know the family is no fault of the artefact, nor a
    # proof.
    return [
        Check(
            name="reference against transformers",
            ok=checked.status != DIFFERS,
            detail=f"not checked: {checked.reason}" if not_made else checked.figures,
        )
    ]
