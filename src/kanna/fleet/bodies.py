"""Bodies of requests to the server of a fleet, checked before anything is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kanna.fleet.manifest import LARGEST_MANIFEST, LARGEST_SIGNATURE
from kanna.fleet.rings import MOST_RINGS

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Target = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{0,100}$")]
Number = Annotated[int, Field(ge=0, le=1 << 53)]
Outcome = Literal["", "passed", "failed", "refused", "unable"]
_DAYS = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PollBody(_Strict):
    """A device asks what it should have, and says what it has.

    Attributes:
        current: Digest of what it has; null: nothing yet.
        number: Of the last instruction it followed, or could not follow.
        outcome: How that ended.
    """

    current: Digest | None = None
    number: Number = 0
    outcome: Outcome = ""
    version: str = Field("", max_length=100)


class ReportBody(_Strict):
    """A device says how an instruction ended."""

    number: Number
    digest: Digest
    current: Digest | None = None
    outcome: Literal["passed", "failed", "refused", "unable"]
    detail: str = Field("", max_length=2000)
    selftest: dict[str, Any] | None = None
    seconds: float = Field(0.0, ge=0, le=1e9, allow_inf_nan=False)


class NewDeviceBody(_Strict):
    """A new device."""

    id: Name
    target: Target = ""
    ring: int | None = Field(None, ge=1, le=MOST_RINGS)
    days: _DAYS | None = None


class NewKeyBody(_Strict):
    """A new key of a device."""

    days: _DAYS | None = None


class ArtefactBody(_Strict):
    """A manifest whose files are here already."""

    manifest: str = Field(max_length=LARGEST_MANIFEST)
    signature: str | None = Field(None, max_length=LARGEST_SIGNATURE)


class RingBody(_Strict):
    """A ring, as `rings.Ring` has it."""

    percent: float = Field(gt=0, le=100, allow_inf_nan=False)
    passes: float = Field(0.9, gt=0, le=1, allow_inf_nan=False)
    failures: int = Field(0, ge=0, le=10**9)
    soak: float = Field(0.0, ge=0, le=1e9, allow_inf_nan=False)
    silent: float = Field(0.0, ge=0, le=1e9, allow_inf_nan=False)


class RolloutBody(_Strict):
    """A new rollout."""

    model: Digest
    target: Target = ""
    rings: list[RingBody] = Field(min_length=1, max_length=MOST_RINGS)
