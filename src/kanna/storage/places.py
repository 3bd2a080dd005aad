"""The verb `cache`: where files are kept, what they take, and what can go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna._util import folders
from kanna._util.disk import states
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.errors import UsageError
from kanna.sources import ollama
from kanna.storage import builtins, hub_cache
from kanna.storage.removal import Removal, delete

__all__ = ["ACTIONS", "CacheResult", "CachePlace", "cache"]

ACTIONS = ("show", "prune")
# What kanna computes again when it is asked to: reference models, sampled texts, links, figures.
_DERIVED = ("references", "sampled", "ollama", "closeness")
_SCRATCH_AGE = 3600.0
"""Seconds after which a folder that a fetch was working in is left over from an interrupted one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlace:
    """A folder that holds models or files of kanna.

    Attributes:
        name: What it is.
        path: Where.
        variable: The environment variable that moves it.
        num_bytes: What it takes.
        models: How many models are in it.
    """

    name: str
    path: str
    variable: str
    num_bytes: int
    models: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheResult(Result):
    """Places, and what pruning frees.

    Attributes:
        places: Every folder.
        prunable: What nothing needs: left over, or made again when it is asked for.
        pruned: Whether it was removed.
    """

    places: Sequence[CachePlace]
    prunable: Sequence[Removal]
    pruned: bool = False

    @property
    def num_bytes(self) -> int:
        """What pruning frees."""
        return sum(one.num_bytes for one in self.prunable)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {**asdict(self), "num_bytes": self.num_bytes}

    def headline(self) -> str:
        """How much is kept and how much of it can go."""
        if self.pruned:
            return f"freed {format_size(self.num_bytes)}"
        total = sum(place.num_bytes for place in self.places)
        return f"{format_size(total)} kept, {format_size(self.num_bytes)} of it can be pruned"

    def tables(self) -> Sequence[ResultTable]:
        """The places, and what can go."""
        kept = [(p.name, p.models, format_size(p.num_bytes), p.path) for p in self.places]
        gone = [(one.what, format_size(one.num_bytes)) for one in self.prunable]
        return [
            ResultTable(columns=("place", "models>", "size>", "path"), rows=kept),
            *([ResultTable(columns=("can be pruned", "size>"), rows=gone)] if gone else []),
        ]


def cache(action: str = "show", *, dry_run: bool = False) -> CacheResult:
    """Show where models and files are kept and what they take, or prune what nothing needs.

    Pruning removes interrupted downloads, revisions that no branch or tag names any more, and what
    kanna makes again when it is asked to. Models stay; `kanna.rm` removes those.

    Args:
        action: `show` or `prune`.
        dry_run: Only say what pruning would remove.

    Raises:
        UsageError: Another action.
    """
    if action not in ACTIONS:
        raise UsageError(f"the action {action!r}", expected=" or ".join(ACTIONS))
    prunable = tuple(_prunable())
    prune = action == "prune" and not dry_run
    if prune:
        delete(prunable)
    return CacheResult(places=tuple(_places()), prunable=prunable, pruned=prune)


def _places() -> list[CachePlace]:
    places = [
        _place(
            "Hugging Face cache", hub_cache.folder(), "HF_HUB_CACHE", len([*hub_cache.models()])
        ),
        _place("kanna cache", folders.cache_folder(), "KANNA_CACHE", len([*builtins.models()])),
        _place("kanna keys and usage", folders.state_folder(), "KANNA_STATE", 0),
        _place("kanna settings", folders.config_folder(), "KANNA_CONFIG", 0),
    ]
    models = [*ollama.models()]
    for store in ollama.stores():
        count = sum(1 for m in models if m.manifest.is_relative_to(store))
        places.append(_place("Ollama", store, "OLLAMA_MODELS", count))
    return places


def _place(name: str, path: Path, variable: str, models: int) -> CachePlace:
    size = 0
    with suppress(PermissionError):
        size = builtins.num_bytes(path) if path.exists() else 0
    return CachePlace(name=name, path=str(path), variable=variable, num_bytes=size, models=models)


def _prunable() -> list[Removal]:
    removals: list[Removal] = []
    if commits := hub_cache.detached():
        freed = hub_cache.freed(commits)
        what = f"{len(commits)} revisions without a name"
        removals.append(Removal(what=what, num_bytes=freed, commits=tuple(commits)))
    if blobs := hub_cache.unfinished():
        removals.append(_removal("interrupted downloads", blobs))
    own = folders.cache_folder()
    for name in _DERIVED:
        if (own / name).is_dir() and any((own / name).iterdir()):
            removals.append(_removal(f"kanna's {name}", [own / name]))
    about, now = states(own.glob("tmp*")), time.time()
    if scratch := [p for p, its in about.items() if now - its.st_mtime > _SCRATCH_AGE]:
        removals.append(_removal("interrupted fetches", scratch))
    return removals


def _removal(what: str, paths: Sequence[Path]) -> Removal:
    return Removal(
        what=what,
        num_bytes=sum(builtins.num_bytes(p) for p in paths),
        paths=tuple(map(str, paths)),
    )
