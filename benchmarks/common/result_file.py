"""Results kept in files, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def cached(
    path: Path, key: Mapping[str, Any], make: Callable[[], Any], *, again: bool = False
) -> Any:
    """What `make` returned when it was first called with this key.

    A result that says `failed` is not kept.

    Args:
        path: The JSON file of the result.
        key: What the result depends on.
        make: Called when there is no result, or one of another key.
        again: Call it anyway.
    """
    if not again and path.exists() and (before := json.loads(path.read_text()))["key"] == key:
        return before["value"]
    value = make()
    print(f"{path.stem}: {json.dumps(value)}", flush=True)
    if isinstance(value, dict) and "failed" in value:
        return value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".partial").write_text(json.dumps({"key": key, "value": value}))
    path.with_suffix(".partial").replace(path)
    return value
