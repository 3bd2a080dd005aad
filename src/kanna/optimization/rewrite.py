"""A GGUF of another plan, made from one that is there: only what changed is encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kanna._util.progress import Progress
from kanna.conversion.base import ConversionRequest
from kanna.conversion.gguf import GGUFConversion
from kanna.formats import gguf
from kanna.model import Tensor
from kanna.optimization.context import Workspace
from kanna.plan import Plan
from kanna.plan.tuning import EncodedRows, Vector
from kanna.plan.types import TensorPlan


def rewrite(
    workspace: Workspace,
    plan: Path | Plan,
    out: Path,
    *,
    before: Sequence[Path],
    progress: Progress | None = None,
) -> list[str]:
    """Write the very bytes that `convert` would give; returns the tensors that were encoded.

    Args:
        workspace: The source and its statistics.
        plan: A plan, or a file of one.
        out: Is written under another name first, then renamed.
        before: Files of the same source and statistics, such as that of another plan. Tensors are
            copied from them where the encodings are the same.
        progress: Where to report; None: where the run does.
    """
    request = ConversionRequest(
        plan=plan, statistics=workspace.calibrated, device=workspace.context.device
    )
    work = GGUFConversion(workspace.source, workspace.model, out, request)
    stored = {name: one for path in before for name, one in gguf.read(path).tensors.items()}
    entries = [_copied(entry, stored.get(entry.name)) for entry in work.resolved.entries]
    encoded = [e.name for e, old in zip(entries, work.resolved.entries, strict=True) if e is old]
    work.resolved = replace(work.resolved, entries=entries)
    work.check(work.describe(), overwrite=True)
    work.write(workspace.context.running(progress))
    return encoded


def _copied(entry: TensorPlan, stored: Tensor | None) -> TensorPlan:
    # A tensor that has its encoding already is carried byte for byte; what a tuning gives is not
    # that of the file before.
    given = isinstance(entry.tensor, (Vector, EncodedRows))
    if stored is None or stored.dtype != entry.encoding.name or given:
        return entry
    return replace(entry, tensor=stored)
