"""Artefacts that may be pushed: each held to the report of its gate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kanna._util.progress import Progress
from kanna.errors import UsageError
from kanna.gate_report import GateReport
from kanna.packaging.artefact import Artefact, open_artefact
from kanna.packaging.gates import gate_of
from kanna.packaging.pushed import PushedModels
from kanna.registry import layouts

_ODD = re.compile("[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedArtefact:
    """An artefact that may be pushed."""

    artefact: Artefact
    files: Mapping[str, Path]
    hashes: Mapping[str, str]
    variant: str
    gate: GateReport | None

    @property
    def notes(self) -> list[str]:
        """What who pushes it should know."""
        if self.gate is not None:
            return []
        return [f"{self.variant} goes without a report that every check passed"]


def prepare_all(wanted: PushedModels, progress: Progress) -> list[PreparedArtefact]:
    """Open models, and hold each to its gate report.

    Args:
        wanted: Which ones.
        progress: Where hashing is reported.

    Raises:
        UsageError: Their layout does not carry one of them.
        GateError: One was not proved.
    """
    formats = layouts.get(wanted.layout).formats
    prepared: list[PreparedArtefact] = []
    for at, one in enumerate(wanted.given):
        artefact = open_artefact(one, offline=wanted.offline, progress=progress)
        if formats and artefact.kind not in formats:
            raise UsageError(
                f"{artefact.name} is of the format {artefact.kind}",
                expected=f"{', '.join(sorted(formats))} in the layout {wanted.layout}",
            )
        taken = {p.variant for p in prepared}
        report = wanted.reports[at] if wanted.reports else None
        prepared.append(prepare(artefact, report, wanted.unproved, taken))
    return prepared


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
    return PreparedArtefact(
        artefact=artefact,
        files=files,
        hashes=hashes,
        variant=_variant(artefact, location, taken),
        gate=gate_of(location, hashes, report, unproved),
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
