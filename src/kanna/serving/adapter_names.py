"""Adapters by name: that of the file, as requests and operators know them, and engines do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanna.serving.problems import ApiError


def names(paths: Sequence[Path]) -> list[str]:
    """The name of each adapter: its file's without the ending, and its folder's where two are so.

    Args:
        paths: The adapters of a model.
    """
    count = Counter(path.stem for path in paths)
    return [p.stem if count[p.stem] == 1 else f"{p.parent.name}/{p.stem}" for p in paths]


def by_id(given: Sequence[dict[str, Any]], paths: Sequence[Path], param: str) -> list[Any]:
    """Every adapter with its scale as engines take them, by id; one that is not named is off.

    llama.cpp takes an empty list for none given, and answers with those that are set for all.

    Args:
        given: As a request has them: by `id` or by `name`, with a `scale` or without.
        paths: The adapters of the model.
        param: Field of the request.

    Raises:
        ApiError: 400: a name that no adapter has, or neither id nor name.
    """
    off = dict.fromkeys(range(len(paths)), 0.0)
    named = {_id(one, names(paths), param): one.get("scale", 1.0) for one in given}
    return [{"id": place, "scale": scale} for place, scale in (off | named).items()]


def _id(one: dict[str, Any], known: Sequence[str], param: str) -> int:
    name = one.get("name")
    if (name is None) == (one.get("id") is None):
        raise ApiError(400, "an adapter has either an id or a name", param=param)
    if name is None:
        return one["id"]
    if known.count(name) != 1:
        others = ", ".join(known[:20]) or "none"
        raise ApiError(
            400, f"no adapter {name[:100]!r} is loaded; there are: {others}", param=param
        )
    return known.index(name)
