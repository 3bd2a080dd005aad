"""Damaged files from good ones, by a seed: bytes, fields of JSON, metadata of a GGUF."""

from __future__ import annotations

import json
import struct
from copy import deepcopy
from random import Random
from typing import Any

from helpers.making import text

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    0.5,
    1 << 31,
    1 << 63,
    10**400,
    float("nan"),
    float("inf"),
    -1e300,
    "",
    "abc",
    "\ud800",
    "../x",
    "x" * 5000,
    [],
    [1],
    ["a", "b"],
    [[1, 2]],
    [None],
    {},
    {"a": 1},
    {"content": "a"},
)
"""Values that no field, or another field, has."""
_TAGS: tuple[bytes, ...] = (
    struct.pack("<I", 8) + text("abc"),
    struct.pack("<IQ", 8, 1) + b"\xff",
    struct.pack("<IQ", 8, 0),
    struct.pack("<Ii", 5, -1),
    struct.pack("<II", 4, 0),
    struct.pack("<II", 4, 1),
    struct.pack("<II", 4, 100_000),
    struct.pack("<II", 4, (1 << 31) - 1),
    struct.pack("<IQ", 10, (1 << 64) - 1),
    struct.pack("<If", 6, float("nan")),
    struct.pack("<Id", 12, float("inf")),
    struct.pack("<Id", 12, 1e300),
    struct.pack("<If", 6, 0.0),
    struct.pack("<IB", 7, 1),
    struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3),
    struct.pack("<IIQ2i", 9, 5, 2, -1, 1 << 30),
    struct.pack("<IIQ", 9, 5, 0),
    struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
    struct.pack("<IIQ", 9, 8, 0),
    struct.pack("<IIQf", 9, 6, 1, float("nan")),
)
"""Types and values of GGUF metadata."""


def damaged_bytes(good: bytes, random: Random, among: int) -> bytes:
    """A file with a few of its first `among` bytes changed, moved, doubled or cut."""
    data = bytearray(good)
    for _ in range(random.randint(1, 6)):
        at = random.randrange(max(1, min(among, len(data))))
        kind = random.random()
        if kind < 0.5:
            data[at : at + 1] = bytes([random.randrange(256)])
        elif kind < 0.7:
            value = random.choice((0, 1, 255, 1 << 16, 1 << 31, (1 << 32) - 1, (1 << 63) - 1))
            data[at : at + 8] = struct.pack("<Q", value)
        elif kind < 0.8:
            del data[at : at + random.randint(1, 16)]
        elif kind < 0.9:
            data[at:at] = data[at : at + random.randint(1, 64)]
        else:
            del data[at:]
    return bytes(data)


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """Another file from any one."""
    return damaged_bytes(data, random, len(data))


def mutated_json(data: bytes, random: Random) -> bytes:
    """Another JSON text from any one; of what is none, other bytes."""
    try:
        return damaged_json(data, random)
    except (ValueError, RecursionError):
        return mutated_bytes(data, random)


def damaged_json(good: bytes, random: Random) -> bytes:
    """A JSON text with some fields of another kind, absent or twice; rarely with odd bytes."""
    if random.random() < 0.1:
        return damaged_bytes(good, random, len(good))
    value: Any = json.loads(good)
    for _ in range(random.randint(1, 3)):
        value = _changed(value, random)
    return json.dumps(value, ensure_ascii=random.random() < 0.9).encode("utf-8", "surrogatepass")


def _changed(value: Any, random: Random) -> Any:
    """The value with one of its parts replaced, at any depth."""
    if not value or not isinstance(value, dict | list) or random.random() < 0.05:
        return deepcopy(random.choice(ODD))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = random.choice(keys)
    kind = random.random()
    if kind < 0.1:
        del value[key]
    elif kind < 0.15 and isinstance(value, dict):
        value[str(random.choice(ODD))[:50]] = value.pop(key)
    else:
        value[key] = (
            _changed(value[key], random) if random.random() < 0.7 else deepcopy(random.choice(ODD))
        )
    return value


def damaged_gguf(parts: dict[str, bytes], rest: bytes, random: Random) -> bytes:
    """A GGUF with some keys of another type or value.

    Args:
        parts: Type and value of every key, packed.
        rest: The number of tensors in 8 bytes, then their descriptions.
        random: Chooses.
    """
    changed = dict(parts)
    for _ in range(random.randint(1, 3)):
        changed[random.choice(list(changed))] = random.choice(_TAGS)
    keys = b"".join(text(key) + value for key, value in changed.items())
    count = struct.pack("<Q", len(changed))
    head = b"GGUF" + struct.pack("<I", 3) + rest[:8] + count + keys + rest[8:]
    return head + bytes(-len(head) % 32)
