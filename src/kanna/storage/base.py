"""A model that is kept on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model on this machine.

    Attributes:
        reference: What to write to use it.
        store: Who keeps it: `hub`, `registry`, `package` or `ollama`.
        num_bytes: What it takes on the disk.
        path: The file or folder.
        revision: Commit of a repository.
        last_used: Seconds since 1970, where the file system says.
    """

    reference: str
    store: str
    num_bytes: int
    path: str
    revision: str | None = None
    last_used: float | None = None
