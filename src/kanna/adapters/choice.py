"""How adapters are named: a folder, or `folder=0.5` with the weight it is merged with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from kanna.errors import UsageError

AdapterWeights = str | Path | Sequence[str | Path] | Mapping[str, float]
"""`adapter/`, `adapter/=0.5`, several of them, or folders with the weight of each."""
_EXPECTED = "FOLDER or FOLDER=WEIGHT, such as adapter/=0.5"


def weights(given: AdapterWeights) -> list[tuple[str, float]]:
    """Each adapter with its weight; 1 is as trained.

    Args:
        given: What the user named.

    Raises:
        UsageError: A weight is no finite number, one is named twice, or none is.
    """
    if isinstance(given, Mapping):
        pairs = [(str(name), weight) for name, weight in given.items()]
    else:
        several = [given] if isinstance(given, str | Path) else given
        pairs = [_parse(str(one)) for one in several]
    if not pairs:
        raise UsageError("no adapter was named", expected=_EXPECTED)
    seen: set[Path] = set()
    for name, weight in pairs:
        if isinstance(weight, bool) or not isinstance(cast(object, weight), int | float):
            raise UsageError(f"the adapter {name} with the weight {weight!r}", expected=_EXPECTED)
        if not math.isfinite(weight) or abs(weight) > 1e6:
            raise UsageError(f"the adapter {name} with the weight {weight}", expected=_EXPECTED)
        if Path(name).absolute() in seen:
            raise UsageError(f"the adapter {name} is named twice", expected="each of them once")
        seen.add(Path(name).absolute())
    return [(name, float(weight)) for name, weight in pairs]


def _parse(text: str) -> tuple[str, float]:
    name, sign, weight = text.rpartition("=")
    if not sign or Path(text).exists():
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        return text, 1.0
