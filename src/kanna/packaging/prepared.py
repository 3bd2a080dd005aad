"""Artefacts that may be pushed: each held to the report of its gate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kanna import gate_report
from kanna.errors import GateError, UsageError
from kanna.packaging.artefact import Artefact

_ODD = re.compile("[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedArtefact:
    """An artefact that may be pushed."""

    artefact: Artefact
    files: Mapping[str, Path]
    hashes: Mapping[str, str]
    variant: str
    gate: gate_report.GateReport | None


def prepare(
    artefact: Artefact, report: Path | None, unproved: bool, taken: set[str]
) -> PreparedArtefact:
    """Hold an artefact to its gate report."""
    whole = artefact.place in artefact.files  # one file or its parts, not a folder
    prefix = f"{artefact.place}/"
    files = {(f.name if whole else p.removeprefix(prefix)): f for p, f in artefact.files.items()}
    hashes = {
        (f.name if whole else p.removeprefix(prefix)): artefact.hashes[p]
        for p, f in artefact.files.items()
    }
    first = next(iter(artefact.files.values()))
    location = first if whole else _folder_of(artefact)
    place = report or gate_report.beside(location)
    gate = None
    if report is not None or place.is_file():
        gate = gate_report.read(place)
        try:
            gate_report.require_proof(gate, hashes, place)
        except GateError:
            if not unproved:
                raise
            gate = None if dict(gate.files) != hashes else gate
    elif not unproved:
        raise GateError(
            f"{location.name} has no gate report: there is no {place}",
            expected="a report that every check of kanna verify passed",
            todo=f"kanna verify SRC {location} --gate {place}, or push it with --unproved",
        )
    return PreparedArtefact(
        artefact=artefact,
        files=files,
        hashes=hashes,
        variant=_variant(artefact, location, taken),
        gate=gate,
    )


def _folder_of(artefact: Artefact) -> Path:
    """The folder of an artefact, from its files."""
    place, path = next(iter(artefact.files.items()))
    depth = place.removeprefix(f"{artefact.place}/").count("/")
    return path.parents[depth]


def _variant(artefact: Artefact, location: Path, taken: set[str]) -> str:
    """A name among variants: the plan of the artefact, else its file's name."""
    stem = location.stem if location.is_file() else location.name
    options = (str(artefact.provenance.get("plan") or ""), stem, f"{artefact.kind}-{stem}")
    for option in options:
        name = _ODD.sub("-", option).strip("-.")[:60]
        if name and name not in taken:
            return name
    raise UsageError(f"{location.name} is named twice", expected="each file once")
