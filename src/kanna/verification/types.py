"""What a check says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """ok: True passed, False failed, None could not be made here. A warning is not a pass."""

    name: str
    ok: bool | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """status: `proved` when every check passed, `failed` when one failed, else `unprovable`."""

    source: str
    artefact: str
    checks: list[Check]
    seconds: float

    @property
    def status(self) -> str:
        verdicts = {check.ok for check in self.checks}
        return "failed" if False in verdicts else "unprovable" if None in verdicts else "proved"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "status": self.status}
