"""The verb `rm`: remove models from this machine."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import oci
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.errors import SourceError, UsageError
from kanna.sources import references
from kanna.sources.references import Reference
from kanna.storage import builtins, hub_cache, oci_store

__all__ = ["Removal", "RmResult", "delete", "rm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One thing to remove.

    Attributes:
        what: As people know it.
        num_bytes: What it frees.
        paths: Files and folders that go.
        commits: Snapshots of the hub's cache that go, by their library.
    """

    what: str
    num_bytes: int
    paths: Sequence[str] = ()
    commits: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RmResult(Result):
    """What was removed, or would be.

    Attributes:
        removed: One entry per model.
        dry_run: Whether it was only looked at.
    """

    removed: Sequence[Removal] = field(default_factory=tuple[Removal, ...])
    dry_run: bool = False

    @property
    def num_bytes(self) -> int:
        """What all of it frees."""
        return sum(one.num_bytes for one in self.removed)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {**asdict(self), "num_bytes": self.num_bytes}

    def headline(self) -> str:
        """How much is freed."""
        verb = "would free" if self.dry_run else "freed"
        return f"{verb} {format_size(self.num_bytes)}"

    def tables(self) -> Sequence[ResultTable]:
        """One row per model."""
        rows = [(one.what, format_size(one.num_bytes)) for one in self.removed]
        return [ResultTable(columns=("removed", "size>"), rows=rows)]


def rm(models: str | Sequence[str], *, dry_run: bool = False) -> RmResult:
    """Remove models from this machine: from the cache of the hub, or from kanna's own.

    Nothing is removed when one of them is not here.

    Args:
        models: References; `org/name` removes all revisions, `org/name:file` one file.
        dry_run: Only say what would go.

    Raises:
        SourceError: A model is not here.
        UsageError: A path, or a model that Ollama keeps.
    """
    named = [models] if isinstance(models, str) else models
    if not named:
        raise UsageError("no model was named", expected="a model that `kanna list` shows")
    planned = [_plan(references.parse(model)) for model in named]
    if not dry_run:
        delete(planned)
    return RmResult(removed=tuple(planned), dry_run=dry_run)


def delete(planned: Sequence[Removal]) -> None:
    """Remove what was planned."""
    hub_cache.remove([commit for one in planned for commit in one.commits])
    root = hub_cache.folder()
    for one in planned:
        for path in map(Path, one.paths):
            if path.is_relative_to(root):
                hub_cache.remove_file(path)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _plan(reference: Reference) -> Removal:
    if reference.kind == "path":
        raise UsageError(f"{reference.given} is a path", expected="a model that `kanna list` shows")
    if reference.kind == "ollama":
        raise UsageError(f"{reference.given} belongs to Ollama", todo=f"ollama rm {reference.name}")
    if reference.kind == "oci":
        removable = oci_store.removable(oci.parse(reference.name))
        if removable is not None:
            paths, freed = removable
            return Removal(what=reference.given, num_bytes=freed, paths=tuple(map(str, paths)))
        raise _absent(reference)
    if reference.kind == "builtin":
        path = builtins.place(reference.name)
        if path is not None and path.exists():
            return Removal(
                what=reference.given, num_bytes=builtins.num_bytes(path), paths=(str(path),)
            )
    else:
        commits, files = hub_cache.selected(reference)
        if commits or files:
            size = sum(map(hub_cache.freed_by_file, files)) + hub_cache.freed(commits)
            return Removal(
                what=reference.given,
                num_bytes=size,
                paths=tuple(map(str, files)),
                commits=tuple(commits),
            )
    raise _absent(reference)


def _absent(reference: Reference) -> SourceError:
    return SourceError(
        f"{reference.given} is not on this machine", todo="`kanna list` shows what is"
    )
