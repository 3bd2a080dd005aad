"""The verb `promote`: a version of a model registry, once everything that speaks for it holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna.checks import Check
from kanna.closeness import GRADES
from kanna.errors import UsageError
from kanna.promotion import conditions
from kanna.promotion.conditions import Evidence
from kanna.promotion.versions import ModelVersions, VersionRequest, source_of
from kanna.sources import open_source
from kanna.tracking import lineage, servers

__all__ = ["ALIASES", "PromoteResult", "promote"]

CANDIDATE, PRODUCTION = ALIASES = ("candidate", "production")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PromoteResult(Result):
    """Whether a model was promoted, and what that was decided by.

    Attributes:
        artefact: Its path.
        name: Of the model in the registry.
        alias: What it should be called there.
        version: Its version there; None where it was refused.
        source: Where the registry says that it lies.
        sha256: Of the artefact.
        grade: How close it is to its source; None where that was not measured.
        kl_mean: Mean KL divergence in nats.
        checks: What it was held to.
        seconds: Time it took.
    """

    artefact: str
    name: str
    alias: str
    version: str | None
    source: str | None
    sha256: str
    grade: str | None
    kl_mean: float | None
    checks: list[Check]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it was promoted."""
        return self.version is not None

    def headline(self) -> str:
        """What it is called now, or the first thing that is missing."""
        if self.ok:
            return f"{self.name} version {self.version} is {self.alias}"
        missing = [f"{check.name}: {check.detail}" for check in self.checks if not check.ok]
        return ": ".join(["refused", *missing[:1]])

    def tables(self) -> list[ResultTable]:
        """Everything that it was held to."""
        marks = {True: "✓", False: "✗", None: "–"}
        rows = [(marks[check.ok], check.name, check.detail) for check in self.checks]
        return [ResultTable(columns=("", "condition", "detail"), rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {**asdict(self), "promoted": self.ok}


def promote(
    artefact: str | Path,
    *,
    track: str,
    name: str,
    to: str = CANDIDATE,
    at_least: str = "close",
    reference: str | Path | None = None,
    gate: str | Path | None = None,
    allow: str | Sequence[str] | None = None,
    key: str | Path | None = None,
    text: str | Path | None = None,
    windows: int | None = None,
    track_weights: bool = False,
    threads: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> PromoteResult:
    """Give a model a name in a registry of MLflow, if everything that speaks for it holds.

    Held to: the gate report, what the file says of itself, its licence, its signature, and how
    close it is to its source, which is measured now. Nothing is registered where one is missing.

    Args:
        artefact: A file or folder, or any reference to one.
        track: The server whose registry it is, or `sqlite:///FILE`.
        name: Of the model there; made where there is none.
        to: `candidate`, or `production` for what is or was candidate there.
        at_least: The least grade of closeness: near-identical, close, fair, weak or poor.
        reference: What it is compared with; None: the source that the gate report names.
        gate: The report that `verify` wrote; None: ARTEFACT.gate.json.
        allow: Licences that are allowed, by their SPDX names; None: any.
        key: The public key of who must have signed; must be given for what is signed.
        text: To measure closeness on; None: the WikiText-2 test set.
        windows: Of that text; None: as `evaluate` does.
        track_weights: Send the weights to the server, for models that lie on this machine alone.
        threads: Threads to use; None: one per physical core.
        offline: Use only what is on this machine.
        progress: Where progress is reported.

    Raises:
        UsageError: An option is wrong, or the registry takes no path of this machine.
        SourceError: The artefact or its reference cannot be read, or the server does not answer.
        MissingError: The extra `mlflow` or the runtime is not installed.
    """
    begin, progress = time.perf_counter(), shown(progress)
    if to not in ALIASES:
        raise UsageError(f"--to {to}", expected=" or ".join(ALIASES))
    grades = [grade.name for grade in GRADES]
    if at_least not in grades:
        raise UsageError(f"--at-least {at_least}", expected=", ".join(grades))
    versions = ModelVersions(track, name)
    opened = open_source(artefact, offline=offline, progress=progress)
    path = opened.path
    source = None if track_weights else source_of(artefact, path)
    if source is not None and source.startswith("file:") and not servers.is_local(track):
        raise UsageError(
            f"{path} lies on this machine, where {servers.shown(track)} cannot read it",
            expected="a model in a registry (oci://…) or on the hub",
            todo="kanna push it first, or send its weights with --track-weights",
        )
    digest = lineage.artefact_hash(path)
    evidence = Evidence(
        artefact=path,
        gate=Path(gate) if gate is not None else None,
        key=Path(key) if key is not None else None,
        allow=allow,
        offline=offline,
        threads=threads,
        progress=progress,
    )
    checks = conditions.of_chain(evidence)
    if to == PRODUCTION:
        checks.append(versions.candidacy(digest))
    measured = None
    if all(check.ok for check in checks):  # what is refused already is not measured
        measured, check = conditions.closeness(evidence, reference, at_least, (text, windows))
        checks.append(check)
    version = None
    if all(check.ok for check in checks):
        request = VersionRequest(
            alias=to, artefact=path, sha256=digest, source=source, checks=checks
        )
        version = versions.promote(request, gate=evidence.gate_path)
    return PromoteResult(
        artefact=str(path),
        name=name,
        alias=to,
        version=version,
        source=source,
        sha256=digest,
        grade=measured.to_dict()["grade"] if measured else None,
        kl_mean=measured.kl_mean if measured else None,
        checks=checks,
        seconds=time.perf_counter() - begin,
    )
