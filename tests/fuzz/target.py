"""One kind of file that is fuzzed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutation
from kanna.errors import KannaError


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of file.

    Attributes:
        path: Where the damaged file goes; its neighbours are good.
        damage: A damaged file, by chance.
        read: Everything that kanna reads it with.
        good: A file as it should be.
        mutate: Another file from one, by chance, for inputs that coverage guides.
        zeros: How many follow the input in the file; they are never written.
    """

    path: Path
    damage: Callable[[Random], bytes]
    read: Callable[[], object]
    good: bytes = b""
    mutate: Callable[[bytes, Random], bytes] = mutation.mutated_bytes
    zeros: int = 0

    def run(self, data: bytes) -> None:
        """Read a damaged file: nothing happens, or a KannaError is raised."""
        self.path.write_bytes(data)
        if self.zeros:
            os.truncate(self.path, len(data) + self.zeros)
        with suppress(KannaError):
            self.read()


def every(*readers: Callable[[], object]) -> Callable[[], None]:
    """Every reader in turn, whatever those before it refuse."""

    def read() -> None:
        for reader in readers:
            with suppress(KannaError):
                reader()

    return read


def json_file(path: Path, *readers: Callable[[], object], good: Any = None) -> Target:
    data = path.read_bytes() if good is None else json.dumps(good).encode()
    return Target(
        path=path,
        damage=lambda random: mutation.damaged_json(data, random),
        read=every(*readers),
        good=data,
        mutate=mutation.mutated_json,
    )
