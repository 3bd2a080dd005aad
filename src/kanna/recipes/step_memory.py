"""What a step takes of memory: predicted before it begins, and held while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from kanna._util.progress import Silent
from kanna.errors import KannaError
from kanna.recipes import records
from kanna.recipes.document import Value
from kanna.recipes.inputs import parts, split_weight
from kanna.recipes.verbs.base import MODEL, StepVerb

_UNKNOWN = 2
"""Weights per byte of a model whose headers do not say how many it has: those of 4 bits."""


def predicted(verb: StepVerb, options: Mapping[str, Value]) -> int:
    """Bytes of its own that a step takes at most, as its verb's record says it.

    Args:
        verb: Of the step.
        options: Of the verb, everything filled in.
    """
    return verb.memory(options, weights(verb, options))


def weights(verb: StepVerb, options: Mapping[str, Value]) -> int:
    """How many weights the largest model has that a step reads; 0 where none lies here.

    Args:
        verb: Of the step.
        options: Of the verb.
    """
    return max(map(_parameters, _models(verb, options)), default=0)


def held(pid: int, most: int) -> int:
    """Bytes that a process and its children hold, no more than was predicted of them."""
    import psutil

    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                about = one.memory_info()
                total += max(0, about.rss - getattr(about, "shared", 0))
    return min(total, most)


def _models(verb: StepVerb, options: Mapping[str, Value]) -> list[str]:
    """The models that a step reads, as far as they lie on this machine."""
    names: list[str] = []
    for option, kinds in verb.inputs.items():
        value = options.get(option)
        for item in value if isinstance(value, list) else [value]:
            if item and MODEL in kinds and isinstance(item, str) and item not in verb.words:
                names.append(split_weight(item, kinds)[0])
    return names


@lru_cache(maxsize=256)
def _parameters(name: str) -> int:
    """Weights of a model, from its headers."""
    from kanna import inspect  # loads every kind of source

    try:
        return inspect(name, hash=False, offline=True, progress=Silent()).parameters
    except (KannaError, OSError, ValueError):
        path = Path(name)
        files = records.files_of(parts(path), path.parent) if path.exists() else []
        return _UNKNOWN * sum(file.bytes for file in files)
