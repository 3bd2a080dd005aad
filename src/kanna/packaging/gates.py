"""The gate report that an artefact is held to before it is pushed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanna import gate_report
from kanna.errors import GateError
from kanna.gate_report import GateReport


def gate_of(
    location: Path, hashes: Mapping[str, str], report: Path | None, unproved: bool
) -> GateReport | None:
    """The report of an artefact; None where it has none about these very files.

    Args:
        location: The artefact; its report is looked for beside it where none is named.
        hashes: SHA-256 of its files by their paths in it.
        report: That the user named.
        unproved: Whether it may have none that every check passed.

    Raises:
        GateError: It was not proved, and has to be.
    """
    place = report or gate_report.beside(location)
    if report is None and not place.is_file():
        if unproved:
            return None
        raise GateError(
            f"{location.name} has no gate report: there is no {place}",
            expected="a report that every check of kanna verify passed",
            todo=f"kanna verify SRC {location} --gate {place}, or push it with --unproved",
        )
    gate = gate_report.read(place)
    try:
        gate_report.require_proof(gate, hashes, place)
    except GateError:
        if not unproved:
            raise
        return gate if dict(gate.files) == dict(hashes) else None
    return gate
