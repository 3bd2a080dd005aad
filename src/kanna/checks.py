"""What a verification reports: one check, and the result of all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kanna._util.results import Result, ResultTable

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
    """

    source: str
    artefact: str
    checks: list[Check]
    seconds: float
    retention: Retention | None = None

    @property
    def status(self) -> str:
        """`proved` when every check passed, `failed` when one failed, else `unprovable`."""
        verdicts = {check.ok for check in self.checks}
        return "failed" if False in verdicts else "unprovable" if None in verdicts else "proved"

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
