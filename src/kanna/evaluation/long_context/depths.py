"""Next tokens at places of a long text, with all that comes before in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kanna._util.progress import Progress
from kanna.errors import GateError
from kanna.evaluation.divergence import Scores, compare
from kanna.model import F32

if TYPE_CHECKING:
    from kanna.runtimes.isolation import IsolatedLlamaEngine
    from kanna.runtimes.llama_engine import LlamaEngine

    LongReader = LlamaEngine | IsolatedLlamaEngine

STRETCH = 64
"""Positions that are scored together."""
_SHORT = 512
"""Tokens: the depth of what is measured in ordinary windows."""
_AT_THE_END = 16

Span = tuple[int, int]
"""The first position that is scored, and the one after the last."""


def depths(length: int) -> list[int]:
    """Tokens in the cache at which a text of `length` is judged: its end, half of it, and so on."""
    lengths = [length]
    while lengths[0] // 2 >= _SHORT:
        lengths.insert(0, lengths[0] // 2)
    return lengths


def spans_at(depths: Sequence[int]) -> list[Span]:
    """The stretch before each depth; its last position has a next token in the text."""
    return [(depth - 1 - STRETCH, depth - 1) for depth in depths]


def spans_at_the_end(length: int) -> list[Span]:
    """Stretches all over the second half of a text of `length`."""
    half = max(1, length // 2 - 1)
    count = max(1, min(_AT_THE_END, half // STRETCH))
    every = half // count
    stops = [length - 1 - i * every for i in reversed(range(count))]
    return [(stop - min(STRETCH, every), stop) for stop in stops]


def keep(
    engine: LongReader,
    ids: Sequence[int],
    spans: Sequence[Span],
    folder: Path,
    name: str,
    *,
    progress: Progress,
) -> list[Path]:
    """Write the logits of each span with keys and values in float16 to a file.

    Args:
        engine: The model.
        ids: The text.
        spans: Stretches of it.
        folder: Where files go.
        name: What theirs begin with.
        progress: Gets the tokens that are read.

    Returns:
        The files in the order of the spans.
    """
    paths: list[Path] = []
    for number, rows in enumerate(_rows(engine, ids, spans, "f16", progress)):
        paths.append(folder / f"{name}-{number}.npy")
        # Written, not mapped: a full disk is an error here and a signal there.
        np.save(paths[-1], rows)
    return paths


def against(
    engine: LongReader,
    ids: Sequence[int],
    spans: Sequence[Span],
    kept: Sequence[Path],
    *,
    cache: str,
    progress: Progress,
) -> list[Scores]:
    """Scores of each span against the logits that `keep` wrote.

    Args:
        engine: The model with another cache.
        ids: The text.
        spans: The same as for `keep`.
        kept: What it returned.
        cache: Types of keys and values.
        progress: Gets the tokens that are read.

    Raises:
        GateError: Logits are not numbers.
    """
    scored: list[Scores] = []
    parts = _rows(engine, ids, spans, cache, progress)
    for (first, stop), path, rows in zip(spans, kept, parts, strict=True):
        base: F32 = np.load(path, mmap_mode="r")
        _, [scores] = compare(base, [rows], np.array(ids[first + 1 : stop + 1]))
        if not np.isfinite(scores.kl).all():
            raise GateError(
                f"{engine.path} with a cache of {cache} gives logits that are not numbers "
                f"after {stop} tokens",
                todo="do not use this cache with it",
            )
        scored.append(scores)
    return scored


def _rows(
    engine: LongReader, ids: Sequence[int], spans: Sequence[Span], cache: str, progress: Progress
) -> Iterator[F32]:
    """The logits of each span, valid until the next."""
    done = 0
    parts = engine.logits_in_parts(ids, part=STRETCH, spans=spans)
    for (_, stop), rows in zip(spans, parts, strict=True):
        progress.advance(stop - done, cache)
        done = stop
        yield rows
    progress.advance(len(ids) - done, cache)
