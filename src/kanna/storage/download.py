"""The verb `pull`: have a model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.results import Result
from kanna._util.units import format_size
from kanna.errors import SourceError
from kanna.sources import hub, hub_files, locate, references
from kanna.storage.builtins import num_bytes

__all__ = ["PullResult", "pull"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PullResult(Result):
    """Where a model is now.

    Attributes:
        reference: As the user wrote it.
        path: The file or folder.
        num_bytes: What it takes.
        revision: The commit, of a model on the hub.
    """

    reference: str
    path: str
    num_bytes: int
    revision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)

    def headline(self) -> str:
        """What is here, and what it takes."""
        return f"{self.reference}, {format_size(self.num_bytes)}"

    def facts(self) -> Sequence[tuple[str, object]]:
        """Where it is."""
        return [("Path", self.path), ("Revision", self.revision)]


def pull(
    model: str | Path,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> PullResult:
    """Fetch a model, so that every verb can use it without a network.

    Of a repository the files that kanna reads are fetched, into the cache that all Hugging Face
    libraries share; an interrupted download goes on where it stopped.

    Args:
        model: Any reference.
        revision: Branch, tag or commit of a hub id.
        progress: Where fetching is reported.

    Raises:
        SourceError: There is no such model, or it cannot be fetched.
    """
    reference, progress = references.parse(model, revision), shown(progress)
    if reference.kind == "hub":
        # Not from the cache alone: who pulls wants what the hub has now.
        repository = hub.look_up(reference.name, reference.revision)
        path = hub_files.fetch(repository, reference, progress)
        commit = repository.commit
    else:
        path, commit = locate(model, progress=progress), None
    if not path.exists():
        raise SourceError(f"{reference.given} does not exist", expected=references.FORMS)
    return PullResult(
        reference=reference.given, path=str(path), num_bytes=size_of(path), revision=commit
    )


def size_of(path: Path) -> int:
    """Bytes of a file or folder, of links what they lead to."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return num_bytes(path.resolve())
