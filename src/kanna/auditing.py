"""The verb `audit`: whether what is known of an artefact holds together, from source to signature.

Nothing is run. Each link is read from the artefact, or from what lies beside it, and held against
the files as they are now.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna import gate_report, inspection, provenance, signing
from kanna._util.arguments import names
from kanna._util.bars import shown
from kanna._util.digest import sha256
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna.checks import Check
from kanna.errors import GateError, NotFoundError
from kanna.formats import gguf
from kanna.inspection import Inspection
from kanna.provenance import files_of
from kanna.sources import open_source

__all__ = ["AuditResult", "audit"]

_UNKNOWN = "0" * 64
"""Written in place of a hash that was not computed."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AuditResult(Result):
    """Every link of the chain.

    Attributes:
        artefact: Its path.
        licence: What it says of its licence.
        checks: Provenance, source, plan, gate, signature and licence; without verdict where there
            is nothing to check.
        seconds: Time it took.
    """

    artefact: str
    licence: str | None
    checks: list[Check]
    seconds: float

    @property
    def status(self) -> str:
        """`complete` when every link holds, `broken` when one does not, else `incomplete`."""
        verdicts = {check.ok for check in self.checks}
        return "broken" if False in verdicts else "incomplete" if None in verdicts else "complete"

    @property
    def ok(self) -> bool:
        """Whether every link holds."""
        return self.status == "complete"

    def headline(self) -> str:
        """The verdict, and the first link that does not hold."""
        first = sorted(self.checks, key=lambda c: c.ok is not False)
        wrong = [f"{c.name}: {c.detail}" for c in first if not c.ok]
        return ": ".join([self.status, *wrong[:1]])

    def tables(self) -> list[ResultTable]:
        """Every link."""
        marks = {True: "✓", False: "✗", None: "–"}
        rows = [(marks[check.ok], check.name, check.detail) for check in self.checks]
        return [ResultTable(columns=("", "link", "detail"), rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {**asdict(self), "status": self.status}


def audit(
    artefact: str | Path,
    *,
    source: str | Path | None = None,
    gate: str | Path | None = None,
    key: str | Path | None = None,
    allow: str | Sequence[str] | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> AuditResult:
    """Hold a file against what is known of how it was made.

    Args:
        artefact: A file or folder; of a package, the package.
        source: What it was made from: its files are hashed and compared.
        gate: The report that `verify` wrote with `gate`; None: MODEL.gate.json, if it is there.
        key: The public key of who must have signed the package, as PEM.
        allow: Licences that are allowed, by their SPDX names, also as one text with commas; None:
            any.
        offline: Use only what is on this machine.
        progress: Where hashing is reported.

    Raises:
        SourceError: There is no such file, or it cannot be read.
        UsageError: The gate report or the key that was named does not exist.
    """
    begin, progress = time.perf_counter(), shown(progress)
    opened = open_source(artefact, offline=offline, progress=progress)
    known = inspection.inspect(opened)
    path = opened.path
    checks = [
        _made_by(known),
        *_source(known, source, offline, progress),
        *_plan(known),
        _gate(path, Path(gate) if gate is not None else None),
        _signature(path, Path(key) if key is not None else None),
        _licence(known, None if allow is None else names(allow)),
    ]
    return AuditResult(
        artefact=str(path),
        licence=known.license,
        checks=checks,
        seconds=time.perf_counter() - begin,
    )


def _made_by(known: Inspection) -> Check:
    recorded = known.provenance
    if "kanna.version" not in recorded:
        return Check(name="provenance", ok=None, detail="kanna did not make it, or nobody says so")
    source = recorded.get("kanna.source", "an unnamed source")
    made = f"kanna {recorded['kanna.version']} from {source}"
    revision = recorded.get("kanna.source.revision")
    return Check(
        name="provenance",
        ok=True,
        detail=f"{made}{f'@{revision}' if revision else ''}: {recorded.get('kanna.command', '')}",
    )


def _source(
    known: Inspection, source: str | Path | None, offline: bool, progress: Progress
) -> Iterator[Check]:
    recorded = known.provenance.get(provenance.SOURCE_HASHES)
    if not isinstance(recorded, Mapping) or not recorded or _UNKNOWN in recorded.values():
        if source is not None or "kanna.version" in known.provenance:
            yield Check(name="source", ok=None, detail="no hashes of it are recorded")
        return
    if source is None:
        some = ", ".join(f"{name} {digest[:12]}…" for name, digest in list(recorded.items())[:2])
        yield Check(name="source", ok=None, detail=f"{some}: compare with --source SRC")
        return
    hashes = open_source(source, offline=offline, progress=progress).hashes(progress)
    wrong = sorted(name for name, digest in recorded.items() if hashes.get(name) != digest)
    yield Check(
        name="source",
        ok=not wrong,
        detail=f"{', '.join(wrong[:3])} differ from what it was made from"
        if wrong
        else f"every recorded SHA-256 is that of the source: {', '.join(list(recorded)[:3])}",
    )


def _plan(known: Inspection) -> Iterator[Check]:
    """The encodings that the plan gave, against those of the tensors as they are."""
    recorded = known.provenance.get("kanna.plan.encodings")
    if not isinstance(recorded, Mapping) or known.kind != gguf.FORMAT.title:
        return
    wanted: dict[str, int] = {}
    for name, count in recorded.items():
        encoding = name.partition(":")[0]
        wanted[encoding] = wanted.get(encoding, 0) + int(count)
    there = {row["encoding"].lower(): row["tensors"] for row in known.types}
    plan = known.provenance.get("kanna.plan", "")
    yield Check(
        name="plan",
        ok=wanted == there,
        detail=f"{plan}: {known.num_tensors} tensors in its encodings"
        if wanted == there
        else f"{plan} gave {_counts(wanted)}; the file has {_counts(there)}",
    )


def _counts(by_encoding: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(by_encoding.items()))


def _gate(artefact: Path, named: Path | None) -> Check:
    path = named or gate_report.beside(artefact)
    if named is None and not path.is_file():
        return Check(
            name="gate", ok=None, detail=f"no {path.name}: kanna verify SRC FILE --gate REPORT"
        )
    report = gate_report.read(path)
    hashes = {place: sha256(file) for place, file in files_of(artefact).items()}
    try:
        gate_report.require_proof(report, hashes, path)
    except GateError as error:
        return Check(name="gate", ok=False, detail=error.found)
    checks = len(report.values.get("checks", []))
    return Check(name="gate", ok=True, detail=f"{checks} checks passed, of these very files")


def _signature(artefact: Path, key: Path | None) -> Check:
    folder = artefact if artefact.is_dir() else artefact.parent
    signed = (folder / signing.FILE).is_file()
    if key is None:
        there = "signed: check it with --key" if signed else "not signed"
        return Check(name="signature", ok=None, detail=there)
    if not key.is_file():
        raise NotFoundError(f"the key {absent(key)}", expected="a public key, as PEM")
    try:
        signing.verify(folder, key)
    except GateError as error:
        return Check(name="signature", ok=False, detail=error.found)
    return Check(name="signature", ok=True, detail=f"by the owner of {key.name}")


def _licence(known: Inspection, allow: Sequence[str] | None) -> Check:
    licence = known.license
    if allow is None:
        return Check(name="licence", ok=True if licence else None, detail=licence or "not named")
    allowed = {name.strip().lower() for name in allow}
    fits = licence is not None and licence.lower() in allowed
    detail = f"{licence or 'not named'}, allowed: {', '.join(sorted(allowed))}"
    return Check(name="licence", ok=fits, detail=detail)
