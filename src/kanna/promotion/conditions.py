"""What a model is held to before it is promoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kanna import gate_report, signing
from kanna._util.progress import Progress
from kanna.auditing import audit
from kanna.checks import Check
from kanna.closeness import GRADES, describe, grade
from kanna.errors import KannaError, UsageError
from kanna.evaluation import EvaluateResult, evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What speaks for a model, and where it lies.

    Attributes:
        artefact: The model.
        gate: Its gate report, where it is not beside it.
        key: The public key of who must have signed.
        allow: Licences that are allowed; None: any.
    """

    artefact: Path
    gate: Path | None
    key: Path | None
    allow: str | Sequence[str] | None
    offline: bool
    threads: int | None
    progress: Progress

    @property
    def gate_path(self) -> Path:
        """The gate report."""
        return self.gate or gate_report.beside(self.artefact)


def of_chain(evidence: Evidence) -> list[Check]:
    """Provenance, plan, gate, signature and licence; a condition that is not asked for is met.

    Args:
        evidence: What speaks for the model.
    """
    links = audit(
        evidence.artefact,
        gate=evidence.gate,
        key=evidence.key,
        allow=evidence.allow,
        offline=evidence.offline,
        progress=evidence.progress,
    ).checks
    return [_asked(link, evidence) for link in links if link.name != "source"]


def _asked(link: Check, evidence: Evidence) -> Check:
    if link.ok is not None:
        return link
    folder = evidence.artefact if evidence.artefact.is_dir() else evidence.artefact.parent
    if link.name == "signature" and not (folder / signing.FILE).is_file():
        return replace(link, ok=True, detail="not signed, and no --key asks for it")
    if link.name == "licence" and evidence.allow is None:
        return replace(link, ok=True, detail="not named, and no --allow asks for one")
    return link


def closeness(
    evidence: Evidence,
    reference: str | Path | None,
    least: str,
    text: tuple[str | Path | None, int | None],
) -> tuple[EvaluateResult | None, Check]:
    """How close the model is to its source, measured now; a failure to measure is no pass.

    Args:
        evidence: What speaks for the model.
        reference: Its source; None: the one that its gate report names.
        least: The least grade.
        text: What it is measured on, and windows of it.
    """
    source = reference or gate_report.read(evidence.gate_path).values.get("source")
    if not isinstance(source, str | Path) or not str(source):
        raise UsageError("the gate report names no source", expected="--reference SRC")
    try:
        measured = evaluate(
            evidence.artefact,
            reference=source,
            text=text[0],
            windows=text[1],
            threads=evidence.threads,
            offline=evidence.offline,
            progress=evidence.progress,
        )
    except KannaError as error:
        if isinstance(error, UsageError) or error.exit_code == 3:
            raise
        return None, Check(name="closeness", ok=False, detail=f"not measured: {error.found}")
    names = [one.name for one in GRADES]
    reached = grade(measured.kl_mean, measured.top1)
    ok = reached is not None and names.index(reached.name) <= names.index(least)
    words = describe(measured.kl_mean, measured.top1)
    detail = f"{words}; KL {measured.kl_mean:.5f} to {measured.reference}; at least {least} wanted"
    return measured, Check(name="closeness", ok=ok, detail=detail)
