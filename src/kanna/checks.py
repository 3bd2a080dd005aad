"""What a verification reports: one check, and the result of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna.errors import KannaError, MissingError

GATE = ".gate.json"
"""What the name of a gate report adds to that of its file."""
_WORDS = {
    "proved": "intact",
    "intact": "intact",
    "failed": "failed",
    "unprovable": "not checkable here",
}


def gate_word(status: str | None) -> str:
    """What people read for the `status` of a gate; "" where there was none.

    Files keep `proved`, as earlier versions wrote it: it says that a file holds what it should and
    runs, not that it is close. How close it is, `kanna.closeness` grades.
    """
    return _WORDS.get(status or "", status or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of an artefact. A warning is not a pass.

    Attributes:
        name: What was checked.
        ok: True passed, False failed, None could not be made here.
        detail: The figures, or what is wrong.
    """

    name: str
    ok: bool | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON has it."""
        return asdict(self)


def verdict(error: KannaError) -> bool | None:
    """The `ok` of a check that an error ended: None where it says nothing of the file.

    Args:
        error: A package, a device or memory that is not here, or what is wrong with the file.
    """
    return None if isinstance(error, MissingError) else False


def gate_status(checks: Iterable[Check]) -> str:
    """`proved` when every check passed, `failed` when one failed, else `unprovable`.

    Args:
        checks: Of one file.
    """
    verdicts = {check.ok for check in checks}
    return "failed" if False in verdicts else "unprovable" if None in verdicts else "proved"


AGREES, OWN, UNCHECKED, DIFFERS = "agrees", "own", "not checked", "differs"
"""What a `ReferenceCheck` may come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceCheck:
    """Whether a reference computes what the source's own library does.

    Attributes:
        status: `agrees`; `own`, where the reference is the source in that library; `not checked`;
            `differs`, which no result of a measurement has.
        library: The library, with its version where it was asked.
        kl: Mean KL divergence in nats, library ‖ reference; None where it was not computed.
        limit: Most that it may be.
        tokens: How many were read.
        reason: Why it was not checked, or what differs beside the divergence.
    """

    status: str
    library: str
    kl: float | None = None
    limit: float | None = None
    tokens: int = 0
    reason: str = ""

    @property
    def figures(self) -> str:
        """What was measured: `64 tokens: KL 1.2e-07 of at most 0.002`."""
        if self.kl is None:
            return self.reason
        return f"{self.tokens} tokens: KL {self.kl:.2g} of at most {self.limit:g}"

    def sentence(self) -> str:
        """What people read of it; begins with a small letter, no full stop."""
        if self.status == OWN:
            return f"the reference is the source itself in {self.library}"
        if self.status == UNCHECKED:
            return f"reference not checked against {self.library}: {self.reason}"
        return f"reference checked against {self.library} on {self.figures}"

    @property
    def notes(self) -> list[str]:
        """A remark where it was not checked."""
        return [self.sentence()] if self.status == UNCHECKED else []

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def describe_reference(data: Mapping[str, Any]) -> str:
    """The sentence on the check of a reference, from JSON; "" where none was made.

    Args:
        data: An evaluation, also of a report of an earlier version.
    """
    checked = data.get("reference_check")
    if not checked:
        return ""
    known = {f.name: checked[f.name] for f in fields(ReferenceCheck) if f.name in checked}
    return ReferenceCheck(**known).sentence()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of a fine-tune's gain an artefact keeps on held-out examples.

    Losses are in nats per learned token.

    Attributes:
        share: (base − artefact) / (base − tuned); None: nothing was gained.
        interval: Its 95 % interval over examples; None for too few of them.
        base_loss: Of the base model.
        tuned_loss: Of the tuned model, in float32.
        artefact_loss: Of the artefact.
        kl: Mean KL divergence, tuned model ‖ artefact, in nats.
        examples: How many.
        tokens: Tokens that were scored.
        least: The share that is asked for.
    """

    share: float | None
    interval: tuple[float, float] | None
    base_loss: float
    tuned_loss: float
    artefact_loss: float
    kl: float
    examples: int
    tokens: int
    least: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VerifyResult(Result):
    """All checks of one artefact against its source.

    Attributes:
        source: The source as the user named it.
        artefact: Path of the artefact.
        checks: In the order they were made.
        seconds: Time they took.
        retention: What it keeps of a fine-tune, where an adapter was named.
        tasks: What it keeps of each task that was named, see
            `kanna.verification.task_retention.TaskRetention`.
        offload: What its run on a device came to, where a backend was named.
    """

    source: str
    artefact: str
    checks: list[Check]
    seconds: float
    retention: Retention | None = None
    tasks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    offload: dict[str, Any] | None = None

    @property
    def status(self) -> str:
        """`proved` when every check passed, `failed` when one failed, else `unprovable`."""
        return gate_status(self.checks)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return self.status == "proved"

    def headline(self) -> str:
        """The verdict, and what failed."""
        return ": ".join(
            [gate_word(self.status), *[f"{c.name} {c.detail}" for c in self.checks if not c.ok][:1]]
        )

    def tables(self) -> list[ResultTable]:
        """Every check."""
        marks = {True: "✓", False: "✗", None: "–"}
        rows = [(marks[check.ok], check.name, check.detail) for check in self.checks]
        return [ResultTable(columns=("", "check", "detail"), rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {**asdict(self), "status": self.status}
