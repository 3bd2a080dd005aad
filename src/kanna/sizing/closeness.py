"""How close a file is before anybody measured it, and what `compare` measured on this machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kanna._util import folders, verified
from kanna.conversion.base import SizedPlan
from kanna.errors import KannaError
from kanna.model import num_weights
from kanna.sources import Source

FOLDER = "closeness"
"""In kanna's cache folder."""
_PER_ERROR = 40.0
_ROUNDING = 0.0005


def expected_kl(sized: SizedPlan) -> float | None:
    """Mean KL divergence in nats that a plan lets expect; None where it has no matrices.

    The squared error of an encoding of b bits per weight falls by four with each bit, and the
    divergence is proportional to it: 0.0005 + 40 x mean 4^-b over the matrices between embeddings
    and output. The 40 lies in the middle of what was measured: 20 of stories15M and Llama-3-8B
    (llama.cpp's table), 80 of SmolLM2-135M and Gemma-3-270M.
    """
    weights, errors = 0, 0.0
    for entry in sized.entries:
        shape = entry.tensor.shape
        embedding = any(
            word in entry.name for word in ("embd", "embed", "output.weight", "lm_head")
        )
        if len(shape) < 2 or (embedding and "attn" not in entry.name):
            continue
        count = num_weights(entry.tensor)
        weights += count
        errors += count * 4.0 ** (-8 * sized.bytes_of(entry) / count)
    return _ROUNDING + _PER_ERROR * errors / weights if weights else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCloseness:
    """What `compare` measured of one file.

    Attributes:
        kl_mean: Nats.
        top1: Share of positions with the same likeliest next token.
    """

    kl_mean: float
    top1: float | None = None


def remember(source: Source, format: str, measured: Mapping[str, MeasuredCloseness]) -> None:
    """Keep what a comparison measured of files of a source, for `fit`.

    Args:
        source: What they were made of.
        format: Theirs.
        measured: By the name of the preset.
    """
    path = _place(source, format)
    if path is not None and measured:
        with suppress(OSError, KannaError):
            verified.keep(path, json.dumps({name: asdict(one) for name, one in measured.items()}))


def recall(source: Source, format: str) -> dict[str, MeasuredCloseness]:
    """What the last comparison of these very files measured here; {} where there was none."""
    path = _place(source, format)
    try:
        if path is None or not verified.unchanged(path):
            return {}
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: MeasuredCloseness(**figures) for name, figures in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _place(source: Source, format: str) -> Path | None:
    """The file for a source, by names and times of its files; None where one is not here."""
    known: list[object] = [format, *source.merged]
    for path in source.decisive_files:
        try:
            about = path.stat()
        except OSError:
            return None
        known.append([os.path.realpath(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns])
    if not source.weight_files:
        return None
    name = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
    return folders.own_cache_folder() / FOLDER / f"{name}.json"
