"""The cache that all Hugging Face libraries share, read and cleaned by their own library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kanna.errors import SourceError
from kanna.sources import hub_files
from kanna.sources.references import Reference
from kanna.storage.base import StoredModel

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo

UNFINISHED = (".partial", ".incomplete")
"""Endings of blobs whose download was interrupted."""


def folder() -> Path:
    """Where the cache is; $HF_HUB_CACHE and $HF_HOME move it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repositories() -> list[CachedRepoInfo]:
    """The repositories of models in the cache."""
    if not folder().is_dir():
        return []
    from huggingface_hub import scan_cache_dir

    cached = scan_cache_dir(folder()).repos
    return sorted((r for r in cached if r.repo_type == "model"), key=lambda r: r.repo_id)


def models() -> Iterator[StoredModel]:
    """What can be used of each repository: its checkpoint, and each of its GGUF files."""
    for repository in repositories():
        for revision in sorted(repository.revisions, key=lambda r: -r.last_modified):
            yield from _of_revision(repository, revision)


def _of_revision(repository: CachedRepoInfo, revision: CachedRevisionInfo) -> Iterator[StoredModel]:
    names = {f.file_path.relative_to(revision.snapshot_path).as_posix(): f for f in revision.files}
    known = (
        "" if "main" in revision.refs else f"@{min(revision.refs, default=revision.commit_hash)}"
    )
    name = f"{repository.repo_id}{known}"
    if hub_files.is_checkpoint(list(names)):
        yield StoredModel(
            reference=name,
            store="hub",
            num_bytes=revision.size_on_disk,
            path=str(revision.snapshot_path),
            revision=revision.commit_hash,
            last_used=repository.last_accessed,
        )
    for file, parts in hub_files.gguf_models(list(names)):
        yield StoredModel(
            reference=f"{name}:{file}",
            store="hub",
            num_bytes=sum(names[part].size_on_disk for part in parts),
            path=str(revision.snapshot_path / PurePosixPath(file)),
            revision=revision.commit_hash,
            last_used=max(names[part].blob_last_accessed for part in parts),
        )


def selected(reference: Reference) -> tuple[list[str], list[Path]]:
    """What a reference means in the cache.

    Returns:
        Commits whose snapshots it names as a whole, and paths of single files of others.
    """
    revisions = [
        revision
        for repository in repositories()
        if repository.repo_id == reference.name
        for revision in repository.revisions
    ]
    if not reference.file:
        return [r.commit_hash for r in revisions if _is(r, reference.revision)], []
    wanted = reference.revision or ("main" if any("main" in r.refs for r in revisions) else None)
    files: list[Path] = []
    for revision in revisions:
        names = [f.file_path.relative_to(revision.snapshot_path).as_posix() for f in revision.files]
        if _is(revision, wanted):
            with suppress(SourceError):  # this one has no such file
                _, parts = hub_files.meant(reference, names)
                files += [revision.snapshot_path / part for part in parts]
    return [], files


def _is(revision: CachedRevisionInfo, wanted: str | None) -> bool:
    """Whether a revision is the one of that name; every one is where none is named."""
    return wanted is None or wanted in revision.refs or revision.commit_hash.startswith(wanted)


def unfinished() -> list[Path]:
    """Blobs of interrupted downloads."""
    return [p for p in folder().glob("models--*/blobs/*") if p.name.endswith(UNFINISHED)]


def detached() -> list[str]:
    """Commits that no branch and no tag names any more."""
    return [
        revision.commit_hash
        for repository in repositories()
        for revision in repository.revisions
        if not revision.refs and len(repository.revisions) > 1
    ]


def freed(commits: list[str]) -> int:
    """Bytes that removing these commits frees."""
    if not commits:
        return 0
    from huggingface_hub import scan_cache_dir

    return scan_cache_dir(folder()).delete_revisions(*commits).expected_freed_size


def remove(commits: list[str]) -> None:
    """Remove snapshots, and the blobs that no other one needs."""
    if commits:
        from huggingface_hub import scan_cache_dir

        scan_cache_dir(folder()).delete_revisions(*commits).execute()


def remove_file(path: Path) -> None:
    """Remove one file of a snapshot, and its blob where no other snapshot has it."""
    blob, needed = path.resolve(), _is_shared(path)
    path.unlink(missing_ok=True)
    if not needed:
        blob.unlink(missing_ok=True)


def freed_by_file(path: Path) -> int:
    """Bytes that removing one file of a snapshot frees."""
    return 0 if _is_shared(path) else path.stat().st_size


def _is_shared(path: Path) -> bool:
    """Whether another file of the repository leads to the same blob."""
    snapshots = next((p for p in path.parents if p.name == "snapshots"), None)
    others = snapshots.glob("*/**/*") if snapshots else ()
    blob = path.resolve()
    return any(o != path and o.is_symlink() and o.resolve() == blob for o in others)
