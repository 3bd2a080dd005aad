"""What a verification reports: one check, and the result of all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
class VerifyResult:
    """All checks of one artefact against its source.

    Attributes:
        source: The source as the user named it.
        artefact: Path of the artefact.
        checks: In the order they were made.
        seconds: Time they took.
    """

    source: str
    artefact: str
    checks: list[Check]
    seconds: float

    @property
    def status(self) -> str:
        """`proved` when every check passed, `failed` when one failed, else `unprovable`."""
        verdicts = {check.ok for check in self.checks}
        return "failed" if False in verdicts else "unprovable" if None in verdicts else "proved"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {**asdict(self), "status": self.status}
