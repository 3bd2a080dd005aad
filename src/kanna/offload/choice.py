"""The device that was named, looked at before anything long begins."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kanna.errors import UsageError
from kanna.offload import proof, providers, selection


def check(backend: str | None, provider: str | None, paths: Iterable[Path]) -> None:
    """Refuse a device that nothing could be run on.

    Args:
        backend: Of llama.cpp; None: none was named.
        provider: Of onnxruntime; None: none was named.
        paths: What is to be run there.

    Raises:
        UsageError: There is no such device, or one of each was named.
        FormatError: What is to be run is of another format.
        MissingError: No llama.cpp for the backend is here.
    """
    if backend is not None and provider is not None:
        raise UsageError("--backend and --provider were given together", expected="one of them")
    if backend is not None:
        selection.select(backend)
        for path in paths:
            proof.require_file(path)
    if provider is not None:
        for path in paths:
            providers.require_folder(path, provider)
