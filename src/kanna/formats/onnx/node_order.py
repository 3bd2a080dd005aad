"""The nodes of a graph in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def needed(nodes: Iterable[Any], outputs: Sequence[str]) -> list[Any]:
    """Nodes that are read, each after those that it reads: quantizers append out of order."""
    makers = {name: node for node in nodes for name in node.output if name}
    kept: dict[int, Any] = {}
    waiting = [(name, False) for name in reversed(outputs)]
    while waiting:
        name, read = waiting.pop()
        node = makers.get(name)
        if node is None or id(node) in kept:
            continue
        if read:
            kept[id(node)] = node
            continue
        waiting.append((name, True))
        waiting += [(given, False) for given in reversed(node.input)]
    return list(kept.values())
