"""Adapters merged into a folder: float32, row block by row block, nothing read ahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kanna.adapters.base import LoraAdapter, NewRows
from kanna.adapters.base_model import check_base
from kanna.adapters.low_rank import RecentFactors, added, stretch
from kanna.adapters.placing import EMBEDDING, HEAD, Change, place
from kanna.errors import UnsupportedError
from kanna.families import text_name
from kanna.formats.base import FLOATS
from kanna.model import F32, U8, Tensor, num_weights
from kanna.sources import Source
from kanna.tokenizer.files import NAMES, TOKENIZER

TEMPLATES = ("chat_template.jinja", "chat_template.json")
_ITEM_BYTES = {"f32": 4, "f16": 2, "bf16": 2}


@dataclass(slots=True)
class Merged:
    """A tensor of the base with what adapters do to it."""

    name: str
    inner: Tensor
    change: Change
    recent: RecentFactors
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.inner.shape
        # What a quantized source is best written in; the values are float32 in any case.
        self.dtype = self.inner.dtype if self.inner.dtype in FLOATS else "f16"

    @property
    def nbytes(self) -> int:
        """Bytes of the values in the type of the base."""
        return num_weights(self) * _ITEM_BYTES[self.dtype]

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        x = self.inner.rows(start, stop)
        if self.change.rows or self.change.added:  # which are put into it, and it may be the file's
            x = np.array(x, dtype=np.float32)
        for rows in self.change.rows:
            _put(x, rows, start, stop)
        for vector, factor in self.change.added:
            x += vector.rows(0, 1) * np.float32(factor)
        for low_rank, weight in self.change.low_rank:
            x = added(x, self.recent.of(low_rank), low_rank.scale * weight, start)
            if low_rank.magnitude is not None:
                stretch(x, low_rank.magnitude, start, stop)
        return x

    def raw(self, start: int, stop: int) -> U8 | None:
        """None: the values are computed."""
        return None


def _put(x: F32, rows: NewRows, start: int, stop: int) -> None:
    for at, place_ in enumerate(rows.places):
        if start <= place_ < stop:
            x[place_ - start] = rows.values.rows(at, at + 1)[0]


def merged_folder(source: Source, adapters: list[tuple[LoraAdapter, float]]) -> Source:
    """The source with adapters merged in: its tensors are computed when they are read.

    Args:
        source: The base model, from a folder.
        adapters: Adapters with their weights; 1 is as trained.

    Raises:
        UnsupportedError: The base is no language model.
        SourceError: An adapter does not fit it.
    """
    notes = [*check_base(source, adapters), *_quantized(source)]
    names = {text_name(name): name for name in source.tensors}
    embedding, head = f"{EMBEDDING}.weight", f"{HEAD}.weight"
    if embedding not in names:
        raise UnsupportedError(
            f"{source.given} has no {embedding}", expected="a causal language model"
        )
    tensors, tied = dict(source.tensors), head not in names
    if tied:  # there for adapters that change it by itself
        names[head] = head
        tensors[head] = tensors[names[embedding]]
    changes = place(replace(source, tensors=tensors), adapters)
    if tied:
        own = _own_head(tensors[head], changes, ties=all(a.ties for a, _ in adapters))
        changes.pop(head, None)
        if own is None:
            del tensors[head]
        else:
            changes[head] = own
            notes.append(
                "head and embedding, one matrix in the base, are changed each by itself: the "
                "merged model has both"
            )
    recent = RecentFactors()
    for name, change in changes.items():
        inner = change.replaced or tensors[names[name]]
        plain = not (change.low_rank or change.added or change.rows)  # its bytes stay as they are
        tensors[names[name]] = inner if plain else Merged(names[name], inner, change, recent)
    files, more = _files(source, [a for a, _ in adapters])
    return replace(
        source,
        tensors=tensors,
        config=_config(source.config, tensors[names[f"{EMBEDDING}.weight"]]),
        files=files,
        weight_files=[*source.weight_files, *(p for a, _ in adapters for p in a.weight_files)],
        notes=[*source.notes, *notes, *(n for a, _ in adapters for n in a.notes), *more],
        merged=tuple(f"{a.given}" + (f"={w:g}" if w != 1 else "") for a, w in adapters),
    )


def _own_head(base: Tensor, changes: Mapping[str, Change], *, ties: bool) -> Change | None:
    """What is done to the head of a model in which it is the embedding; None: it stays that.

    PEFT computes the head with the embedding's own values where only looking up was trained.

    Args:
        base: The embedding of the base.
        changes: What is done to each tensor.
        ties: Whether changes of the embedding are meant for the head.
    """
    head, embedding = changes.get(f"{HEAD}.weight"), changes.get(f"{EMBEDDING}.weight")
    if head is not None:
        only_rows = embedding is not None and not any(
            c.low_rank or c.replaced for c in (head, embedding)
        )
        return None if only_rows else head  # PEFT saves the rows of tied tokens twice
    if embedding is None or ties or not (embedding.low_rank or embedding.replaced):
        return None
    if embedding.low_rank:
        return Change(replaced=embedding.replaced, rows=embedding.rows)
    grown = embedding.replaced is not None and embedding.replaced.shape != base.shape
    return None if grown else Change()


def _quantized(source: Source) -> list[str]:
    kinds = sorted({t.dtype for t in source.tensors.values() if t.dtype not in (*FLOATS, "f64")})
    return quantized_notes([k for k in kinds if k[0] not in "iu"])


def quantized_notes(kinds: Iterable[str]) -> list[str]:
    """What the user of a base that is quantized must know; [] where none of it is.

    Args:
        kinds: The quantized types that hold its matrices.
    """
    named = ", ".join(sorted(kinds))
    if not named:
        return []
    return [
        f"the base is already quantized ({named}): its losses stay in the merged model. Merge into "
        "the 16-bit model that it was made from, where you have it"
    ]


def _config(config: Mapping[str, Any], embedding: Tensor) -> dict[str, Any]:
    """config.json for an embedding that may have more rows."""
    part = config.get("text_config")
    holder = part if isinstance(part, Mapping) and "vocab_size" in part else config
    if holder.get("vocab_size") == embedding.shape[0]:
        return dict(config)
    changed = {**holder, "vocab_size": embedding.shape[0]}
    return {**config, "text_config": changed} if holder is part else changed


def _files(source: Source, adapters: list[LoraAdapter]) -> tuple[dict[str, Path], list[str]]:
    """Side files: the tokenizer and the chat template that the adapter was trained with."""
    files, notes = dict(source.files), list[str]()
    for adapter in adapters:
        own = {n: p for n, p in adapter.files.items() if n in NAMES}
        own.pop("generation_config.json", None)
        if TOKENIZER in own and not _same(own[TOKENIZER], files.get(TOKENIZER)):
            kept = {n: p for n, p in files.items() if n not in NAMES or n in TEMPLATES}
            kept |= {n: files[n] for n in ("generation_config.json",) if n in files}
            if any(n in own for n in TEMPLATES):
                kept = {n: p for n, p in kept.items() if n not in TEMPLATES}
            files = kept | own
            notes.append(f"the tokenizer is that of {adapter.given}, which differs from the base's")
        elif any(n in own and not _same(own[n], files.get(n)) for n in TEMPLATES):
            files |= {n: own[n] for n in TEMPLATES if n in own}
            notes.append(f"the chat template is that of {adapter.given}")
    return files, notes


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and one.read_bytes() == other.read_bytes()
