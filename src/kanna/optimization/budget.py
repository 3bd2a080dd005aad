"""What the user allows, as bytes of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kanna._util.units import format_size
from kanna.conversion import convert
from kanna.errors import UsageError
from kanna.model import Model
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """nbytes: of the whole file; said: in the user's words."""

    nbytes: int
    said: str


def check(*, size: int | None, bpw: float | None, like: str | None, memory: int | None) -> None:
    """UsageError unless one of the four ways to say a budget was used, and says more than nothing."""
    given = {"size": size, "bpw": bpw, "like": like, "memory": memory}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        what = (
            " and ".join(f"--{n}" for n in named) + " were given together"
            if named
            else "no budget was given"
        )
        raise UsageError(what, expected="one of --size, --bpw, --like and --memory")
    if min(v for v in (size, bpw, memory, 1) if v is not None) <= 0:
        raise UsageError("a budget of nothing", expected="more than 0")
    if bpw is not None and not bpw <= 32:
        raise UsageError(f"{bpw} bits per weight", expected="more than 0, at most 32")


def budget(
    source: Source,
    model: Model,
    *,
    size: int | None,
    bpw: float | None,
    like: str | None,
    imatrix: Path | None = None,
) -> Budget:
    """The bytes of the artefact, said in one of three ways.

    For memory see footprint.py. Raises PlanError.

    it

    Args:
        imatrix: What the preset of `like` is made with; it may change the mix, and the metadata
            names.
    """
    if size is not None:
        return Budget(nbytes=size, said=f"a file of {format_size(size)}")
    if bpw is not None:
        return Budget(nbytes=int(bpw * model.num_parameters / 8), said=f"{bpw:g} bits per weight")
    assert like is not None
    preset = convert(source, preset=like, imatrix=imatrix, dry_run=True)
    return Budget(nbytes=preset.file_bytes, said=f"the size of {preset.preset}")
