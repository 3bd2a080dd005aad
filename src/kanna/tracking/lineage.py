"""What a run's files were made from: hashes of source, plan and artefact, for its tags."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from kanna import __version__, inspection, provenance
from kanna._util.digest import sha256
from kanna.errors import KannaError
from kanna.formats import folder_files, gguf

ARTEFACT = "kanna.artefact.sha256"


def artefact_hash(path: Path) -> str:
    """SHA-256 of a file; of several, that of their hashes and names as `sha256sum` prints them.

    Args:
        path: A file, the first part of a GGUF in parts, or a folder.
    """
    if path.is_dir():
        files = {str(place): file for place, file in folder_files.walked(path)}
    else:
        files = {path.name: path}
        with suppress(KannaError):
            files = {part.name: part for part in gguf.read(path).paths}
    if len(files) == 1:
        return sha256(next(iter(files.values())))
    lines = [f"{sha256(file)}  {place}\n" for place, file in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_artefact(path: str | Path, plan: str | Path | None = None) -> dict[str, Any]:
    """Tags of an artefact: its hash and path, and what it says of its source and plan.

    Args:
        path: A file or folder.
        plan: Its plan file.
    """
    artefact = Path(path)
    if not artefact.exists():
        return {}
    tags: dict[str, Any] = {
        "kanna.version": __version__,
        "kanna.artefact": str(artefact.absolute()),
        ARTEFACT: artefact_hash(artefact),
    }
    recorded: dict[str, Any] = {}
    with suppress(KannaError):  # an adapter says nothing of itself
        recorded = inspection.inspect(artefact).provenance
    for name in ("kanna.source", provenance.SOURCE_HASHES, "kanna.plan", "kanna.command"):
        tags[name] = recorded.get(name)
    if plan is not None and Path(plan).is_file():
        tags["kanna.plan.sha256"] = sha256(Path(plan))
    return tags
