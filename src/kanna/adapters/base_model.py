"""Which model an adapter was trained on: some values of it beside the adapter, and its names."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.atomic import write_json
from kanna._util.typed import listed, text, whole
from kanna.adapters.base import LoraAdapter
from kanna.adapters.placing import EMBEDDING
from kanna.errors import FormatError, SourceError
from kanna.families import text_name
from kanna.formats.text_files import read_object
from kanna.model import F32, Tensor
from kanna.sources import Source

FILE = "base.json"
"""Beside an adapter that `kanna adapt` made: its base, and some values of the base's embedding."""
_ROWS, _COLUMNS = 32, 64
_SAME = 1 - 1e-5
"""Cosine from which values are the same but for a rounding to 16 bits."""
_RELATED = 0.8
"""Cosine from which they are: few bits move an embedding less than this, other weights more."""
_NAMES = (f"{EMBEDDING}.weight", "token_embd.weight")
"""Of the embedding: the one matrix that no format reorders."""
_AGAIN = f"train the adapter again, or delete {FILE}"
_VARIANT = re.compile(r"[-_.]?(?:unsloth[-_]?)?(?:bnb[-_]?)?(?:4|8)[-_]?bit$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class EmbeddingSample:
    """Some values of an embedding.

    Attributes:
        rows: Which rows.
        values: Their first columns, float32 [rows, columns].
    """

    rows: list[int]
    values: F32

    def cosine(self, embedding: Tensor) -> float | None:
        """How alike the same values of another one are; None where it has no such place."""
        if max(self.rows) >= embedding.shape[0] or self.values.shape[1] > embedding.shape[1]:
            return None
        other = _values(embedding, self.rows, self.values.shape[1]).astype(np.float64)
        lengths = float(np.linalg.norm(self.values) * np.linalg.norm(other))
        return float((self.values * other).sum()) / lengths if lengths else None


def write(folder: Path, source: Source) -> None:
    """Write what tells a base from others into the folder of an adapter.

    Args:
        folder: The folder.
        source: The base that it was trained on.
    """
    identity: dict[str, Any] = {"base": source.given, "revision": source.revision}
    if (embedding := _embedding(source)) is not None:
        rows = sorted({round(r) for r in np.linspace(0, embedding.shape[0] - 1, _ROWS).tolist()})
        values = _values(embedding, rows, min(_COLUMNS, embedding.shape[1]))
        packed = base64.b64encode(values.astype("<f4").tobytes()).decode()
        identity["embedding"] = {"rows": rows, "values": packed}
    write_json(folder / FILE, identity)


def check_base(source: Source, adapters: list[tuple[LoraAdapter, float]]) -> list[str]:
    """Notes on bases that are not, or not surely, the one that an adapter was trained on.

    Raises:
        SourceError: The weights are another model's; or none can be compared, both are names on
            the hub, and another model's.
        FormatError: What lies beside an adapter cannot be read.
    """
    notes: list[str] = []
    embedding = _embedding(source) if source.has_weights else None
    for adapter, _ in adapters:
        _check_family(adapter, source)
        sample = _read(adapter)
        likeness = sample.cosine(embedding) if sample and embedding is not None else None
        if likeness is None:
            notes += _by_name(adapter, source)
        elif not likeness >= _RELATED:
            raise SourceError(
                f"the base is another: {adapter.given} was trained on {adapter.base}, and of the "
                f"embedding of {source.given} the same rows have the cosine {likeness:.3f} to it",
                expected=f"the weights of {adapter.base}, in any format",
                todo="give that model, or another adapter",
            )
        elif likeness < _SAME:
            notes.append(
                f"the embedding of {source.given} is near that of the base of {adapter.given}, and "
                f"not the same (cosine {likeness:.4f}): one of them is quantized or further trained"
            )
    return notes


def _embedding(source: Source) -> Tensor | None:
    named = (t for n, t in source.tensors.items() if text_name(n) in _NAMES)
    return next((t for t in named if len(t.shape) == 2), None)


def _values(embedding: Tensor, rows: list[int], columns: int) -> F32:
    return np.concatenate([embedding.rows(row, row + 1)[:, :columns] for row in rows])


def _read(adapter: LoraAdapter) -> EmbeddingSample | None:
    """None for an adapter of another trainer, or of a base without an embedding of its own."""
    path = adapter.files.get(FILE)
    part = read_object(path, _AGAIN).part("embedding") if path else None
    if part is None or "rows" not in part:
        return None
    rows, packed = part.need("rows", listed(whole(), _ROWS)), part.need("values", text())
    try:
        flat = np.frombuffer(base64.b64decode(packed, validate=True), "<f4").astype(np.float32)
        values = flat.reshape(len(rows), -1)
    except (ValueError, binascii.Error):
        raise FormatError(f"{path} holds no values of an embedding", todo=_AGAIN) from None
    return EmbeddingSample(rows, values) if values.size else None


def _check_family(adapter: LoraAdapter, source: Source) -> None:
    """SourceError where an adapter names the class of its base, and the model is of another."""
    own = source.config.get("architectures")
    if adapter.architecture and isinstance(own, list) and own and adapter.architecture not in own:
        raise SourceError(
            f"the base is another: {adapter.given} was trained on a {adapter.architecture}, "
            f"{source.given} is a {own[0]}",
            expected=f"the base model that it was trained on{_named(adapter)}",
            todo="give that model",
        )


def _named(adapter: LoraAdapter) -> str:
    return f", {adapter.base}" if adapter.base else ""


def _by_name(adapter: LoraAdapter, source: Source) -> list[str]:
    """What names alone say, where no values of the base lie beside the adapter."""
    own = source.given.partition("@")[0]
    unknown = "shapes agree, and whether it is the same model is for you to know"
    if not adapter.base:
        return [f"{adapter.given} names no base model: {unknown}"]
    if _plain(adapter.base) not in (_plain(own), _plain(source.name)):
        what = f"{adapter.given} was trained on {adapter.base}, this is {source.name}"
        if source.revision is not None and adapter.base.count("/") == 1:
            raise SourceError(
                what,
                expected=adapter.base,
                todo=f"give {adapter.base}; or download {own} and give its folder, if it is the "
                "same model under another name",
            )
        return [f"{what}: {unknown}"]
    if adapter.revision and source.revision and adapter.revision != source.revision:
        return [
            f"{adapter.given} was trained on the revision {adapter.revision} of {adapter.base}, "
            f"this is {source.revision}: {unknown}"
        ]
    return []


def _plain(name: str) -> str:
    """A model's name without owner, capitals and marks of a quantized copy."""
    last = name.rstrip("/\\").replace("\\", "/").rpartition("/")[2].lower()
    while (shorter := _VARIANT.sub("", last)) != last:
        last = shorter
    return last
