"""Models that Ollama keeps; only Ollama removes them."""

from __future__ import annotations

from collections.abc import Iterator

from kanna.sources import ollama
from kanna.storage.base import StoredModel


def models() -> Iterator[StoredModel]:
    """The models of every store of Ollama on this machine."""
    for model in ollama.models():
        yield StoredModel(
            reference=f"ollama:{model.name}",
            store="ollama",
            num_bytes=model.num_bytes,
            path=str(model.blob),
            last_used=model.manifest.stat().st_mtime,
        )
