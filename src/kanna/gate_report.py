"""The report of a gate as a file: its checks, and the hashes of the files that they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna import __version__
from kanna._util import verified
from kanna._util.atomic import write_json
from kanna._util.nearest import absent
from kanna._util.typed import text
from kanna.checks import GATE, VerifyResult
from kanna.errors import GateError, NotFoundError, UsageError
from kanna.formats.text_files import read_object

FORMAT = "kanna.gate/1"
SUFFIX = GATE


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """A gate report that was read.

    Attributes:
        status: `proved`, `failed` or `unprovable`.
        files: SHA-256 of the files that were proved, by their path in the artefact.
        values: The report as JSON has it.
    """

    status: str
    files: Mapping[str, str]
    values: Mapping[str, Any]


def beside(artefact: Path) -> Path:
    """Where the report of an artefact is looked for."""
    return artefact.with_name(artefact.name + SUFFIX)


def report(result: VerifyResult) -> dict[str, Any]:
    """The report of a gate, as JSON has it.

    Args:
        result: What was checked; its artefact is hashed as it lies there now.
    """
    from kanna.provenance import files_of  # who reads a report needs no readers of formats

    artefact = Path(result.artefact)
    hashes = {place: verified.digest(path) for place, path in files_of(artefact).items()}
    return {
        "format": FORMAT,
        "kanna": __version__,
        "artefact": artefact.name,
        "files": hashes,
        "source": result.source,
        "status": result.status,
        "seconds": result.seconds,
        "checks": [check.to_dict() for check in result.checks],
        "retention": asdict(result.retention) if result.retention else None,
        # Without questions and answers, which are the user's own: the report goes where files go.
        "tasks": [{k: v for k, v in task.items() if k != "flips"} for task in result.tasks],
    }


def write(result: VerifyResult, path: Path) -> None:
    """Write the report of a gate.

    Args:
        result: What was checked.
        path: The file.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", expected="a file for the gate report")
    write_json(path, report(result))


def read(path: Path) -> GateReport:
    """Read the report of a gate.

    Raises:
        UsageError: There is none.
        FormatError: It is none.
    """
    if not path.is_file():
        raise NotFoundError(
            f"the gate report {absent(path)}",
            todo="kanna verify SRC FILE --gate REPORT writes one",
        )
    values = read_object(path, "write it again: kanna verify SRC FILE --gate REPORT")
    kind = values.need("format", text(100))
    if kind != FORMAT:
        raise UsageError(f"{path} is {kind!r}", expected=FORMAT)
    files = values.part("files")
    return GateReport(
        status=values.need("status", text(40)),
        files={place: files.need(place, text(64)) for place in files.values},
        values=values.values,
    )


def require_proof(gate: GateReport, hashes: Mapping[str, str], path: Path) -> None:
    """Hold a report to the files that it is about.

    Raises:
        GateError: It is about other files, or not every check passed.
    """
    if dict(gate.files) != dict(hashes):
        differing = sorted(
            place for place in {*gate.files, *hashes} if gate.files.get(place) != hashes.get(place)
        )
        raise GateError(
            f"{path} is about other files: {', '.join(differing[:4])} differ",
            expected="a report about this very file",
            todo="kanna verify SRC FILE --gate REPORT",
        )
    if gate.status != "proved":
        raise GateError(
            f"the gate of {path} is {gate.status}",
            expected="proved",
            todo="look at it with kanna verify",
        )
