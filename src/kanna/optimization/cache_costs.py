"""What types of cached keys and values cost at the end of the context that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanna._util import own_files
from kanna.evaluation.long_context import depths
from kanna.optimization.context import Workspace
from kanna.optimization.kl_scorer import Window
from kanna.runtimes.llamacpp import RUNTIME


def long_text(windows: Sequence[Window], length: int) -> list[int]:
    """Windows put one after the other, at most `length` tokens; a BOS stays at the beginning."""
    first = windows[0][1][:1]
    text = list(first)
    for _, ids in windows:
        if len(text) >= length:
            break
        text += ids[1:] if ids[:1] == first else ids
    return text[:length]


def cache_costs(
    workspace: Workspace, exact: Path, caches: Sequence[str], ids: Sequence[int]
) -> dict[str, float]:
    """Nats that each cache costs beside one in float16, over the second half of a text.

    Args:
        workspace: Where to report, and where logits lie meanwhile.
        exact: The weights, exactly.
        caches: Types of keys and values.
        ids: The text: what comes first is in the cache.
    """
    progress, threads = workspace.context.progress, workspace.context.threads
    spans, costs = depths.spans_at_the_end(len(ids)), dict[str, float]()
    with own_files.scratch(workspace.folder, "caches") as scratch:
        progress.start("caches", (len(caches) + 1) * len(ids), "tokens")
        with RUNTIME.open(exact, context=len(ids), threads=threads) as engine:
            kept = depths.keep(engine, ids, spans, scratch, "exact", progress=progress)
        for cache in caches:
            with RUNTIME.open(exact, context=len(ids), threads=threads, cache=cache) as engine:
                scores = depths.against(engine, ids, spans, kept, cache=cache, progress=progress)
            costs[cache] = float(np.concatenate([s.kl for s in scores]).mean())
        progress.finish()
    return costs
