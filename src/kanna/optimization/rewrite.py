"""A file of another plan, made from one that is there.

Only what changed its encoding is encoded again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kanna._util.progress import Progress
from kanna.conversion.base import Request, Running
from kanna.conversion.gguf import ToGGUF
from kanna.formats import gguf
from kanna.hardware.cpu import default_threads
from kanna.model import Model, Tensor
from kanna.plan import Plan
from kanna.plan.tuning import Vector
from kanna.plan.types import TensorPlan
from kanna.sources import Source


def rewrite(
    source: Source,
    model: Model,
    plan: Path | Plan,
    statistics: Path,
    out: Path,
    *,
    before: Path | None,
    threads: int | None,
    progress: Progress,
) -> list[str]:
    """Write the very bytes that `convert` would give; returns the tensors that were encoded.

    the encodings are the same; None: every tensor is encoded. Written beside `out` and renamed.

    Args:
        before: A file of the same source and statistics by another plan, whose tensors are copied
            where.
    """
    work = ToGGUF(source, model, out, Request(plan=plan, statistics=statistics))
    there = gguf.read(before).tensors if before is not None else {}
    entries = [_copied(entry, there.get(entry.name)) for entry in work.resolved.entries]
    fresh = [e.name for e, was in zip(entries, work.resolved.entries, strict=True) if e is was]
    work.resolved = replace(work.resolved, entries=entries)
    work.check(work.describe(), overwrite=True)
    work.write(
        Running(
            threads=threads or default_threads(),
            overwrite=True,
            nonfinite="refuse",
            progress=progress,
        )
    )
    return fresh


def _copied(entry: TensorPlan, there: Tensor | None) -> TensorPlan:
    # A tensor that has its encoding already is carried byte for byte; a tuned vector is no longer
    # the source's.
    if there is None or there.dtype != entry.encoding.name or isinstance(entry.tensor, Vector):
        return entry
    return replace(entry, tensor=there)
