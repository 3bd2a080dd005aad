"""What the user allows, as bytes of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kanna.convert import convert
from kanna.errors import PlanError, UsageError
from kanna.fit import buffer_bytes, cache_bytes
from kanna.model import Model
from kanna.sources import Source
from kanna.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """nbytes: of the whole file; said: in the user's words."""

    nbytes: int
    said: str


def budget(
    source: Source,
    model: Model,
    *,
    size: int | None,
    bpw: float | None,
    like: str | None,
    memory: int | None,
    context: int,
    imatrix: Path | None = None,
) -> Budget:
    """The bytes of the artefact from one of the four ways to say it. Raises UsageError and PlanError.

    imatrix: what the preset of `like` is made with; it may change the mix, and the metadata names it
    """
    given = {"size": size, "bpw": bpw, "like": like, "memory": memory}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        what = " and ".join(f"--{n}" for n in named) + " were given together" if named else "no budget was given"
        raise UsageError(what, expected="one of --size, --bpw, --like and --memory")
    if min(v for v in (size, bpw, memory, 1) if v is not None) <= 0:
        raise UsageError("a budget of nothing", expected="more than 0")
    if size is not None:
        return Budget(nbytes=size, said=f"a file of {format_size(size)}")
    if bpw is not None:
        if not bpw <= 32:
            raise UsageError(f"{bpw} bits per weight", expected="more than 0, at most 32")
        return Budget(nbytes=int(bpw * model.num_parameters / 8), said=f"{bpw:g} bits per weight")
    if like is not None:
        preset = convert(source, preset=like, imatrix=imatrix, dry_run=True)
        return Budget(nbytes=preset.file_bytes, said=f"the size of {preset.preset}")
    assert memory is not None
    overhead = cache_bytes(model, context) + buffer_bytes(model, context)
    if overhead >= memory:
        raise PlanError(
            f"the cache and buffers for {context} tokens take {format_size(overhead)}",
            expected=f"less than {format_size(memory)}",
            todo="lower --context or raise --memory",
        )
    return Budget(nbytes=memory - overhead, said=f"{format_size(memory)} of memory at {context} tokens")
