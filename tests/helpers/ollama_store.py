"""A store of models as Ollama writes it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest


def make(store: Path, gguf: Path, patch: pytest.MonkeyPatch) -> Path:
    """A store with one model, `tiny:latest`, that this process uses."""
    data = gguf.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (store / "blobs").mkdir(parents=True)
    (store / "blobs" / f"sha256-{digest}").write_bytes(data)
    add(store, "tiny", "latest", [("model", f"sha256:{digest}"), ("template", "sha256:1")])
    patch.setenv("OLLAMA_MODELS", str(store))
    return store


def add(store: Path, name: str, tag: str, layers: list[tuple[str, str]]) -> None:
    """Write the manifest of a model, whose layers are given by kind and digest."""
    manifest = store / "manifests" / "registry.ollama.ai" / "library" / name / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    listed = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": 1}
        for kind, digest in layers
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": listed}))
