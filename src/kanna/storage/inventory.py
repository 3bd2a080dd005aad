"""The verb `list`: models that can be used without a network, wherever they are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.storage import builtins, hub_cache, oci_store, ollama_store
from kanna.storage.base import StoredModel

__all__ = ["StoredModel", "StoredModels", "list", "models"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StoredModels(Result):
    """The models on this machine, those used last first."""

    models: Sequence[StoredModel]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {"models": [asdict(model) for model in self.models]}

    def headline(self) -> str:
        """How many there are and what they take."""
        total = sum(model.num_bytes for model in self.models)
        return f"{len(self.models)} models, {format_size(total)}"

    def tables(self) -> Sequence[ResultTable]:
        """One row per model."""
        rows = [
            (m.reference, format_size(m.num_bytes), m.store, age(m.last_used)) for m in self.models
        ]
        return [ResultTable(columns=("model", "size>", "kept by", "last used"), rows=rows)]


def list() -> StoredModels:  # noqa: A001 - the verb's name
    """List the models on this machine: fetched from the hub, registries, packages, or by Ollama.

    Returns:
        Models by the references that every verb takes.
    """
    return StoredModels(models=tuple(sorted(models(), key=lambda m: -(m.last_used or 0.0))))


def models() -> Iterator[StoredModel]:
    """Every model of every store, in no order."""
    for store in (hub_cache, builtins, oci_store, ollama_store):
        yield from store.models()


def age(moment: float | None) -> str:
    """How long ago a moment was, for people."""
    if moment is None:
        return ""
    seconds = max(0.0, time.time() - moment)
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // size)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"
