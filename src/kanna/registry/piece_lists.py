"""Lists of the pieces of files that are pushed: a later pull fetches only what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanna.formats import cutting
from kanna.registry import connection, manifests
from kanna.registry.reuse import FORMAT, WORTH


def lists_of(files: Mapping[str, Path]) -> bytes | None:
    """Lists of the pieces of files, as they are pushed; None where no file is worth one.

    Args:
        files: By the SHA-256 of each.
    """
    large = {digest: path for digest, path in files.items() if path.stat().st_size >= WORTH}
    lists = {digest: cutting.cut(path).to_dict() for digest, path in large.items()}
    data = manifests.encoded({"format": FORMAT, "files": lists})
    return data if lists and len(data) <= connection.MOST_TEXT else None
