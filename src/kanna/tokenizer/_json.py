"""tokenizer.json without its merges in memory.

Half a million merges as Python lists, and the text around them, take 200 MB; they are only ever
gone through once. So they stay in the file and are parsed some thousands at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from kanna.errors import SourceError
from kanna.formats.stored_file import StoredFile

_KEY = re.compile(rb'"merges"\s*:\s*\[\s*')
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
# `"left right"`, or `["left", "right"]` since parts may hold spaces; only the extent, JSON checks
# the rest.
_BATCH = re.compile(
    rb"(?:(?:"
    + _STRING
    + rb"|\[\s*"
    + _STRING
    + rb"\s*,\s*"
    + _STRING
    + rb"\s*\])\s*,?\s*){1,8192}"
)


class Merges:
    """The elements of a merges array, from the batches [start, stop) of `file` they lie in."""

    def __init__(self, file: StoredFile, batches: list[tuple[int, int]]) -> None:
        self.file, self.batches = file, batches

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.lists())

    def lists(self) -> Iterator[list[Any]]:
        """The elements, some thousands at a time."""
        for start, stop in self.batches:
            batch = self.file.read(start, stop).tobytes()
            try:
                yield json.loads(b"[" + batch.rstrip(b", \t\r\n") + b"]")
            except ValueError as error:
                raise SourceError(
                    "tokenizer.json has damaged merges", todo="fetch it again"
                ) from error


def _batches(data: bytes, at: int) -> tuple[list[tuple[int, int]], int]:
    """Where the elements lie, and the index of the array's closing bracket; -1: it has none."""
    spans: list[tuple[int, int]] = []
    while match := _BATCH.match(data, at):
        spans.append(match.span())
        at = match.end()
    return spans, at if data[at : at + 1] == b"]" else -1


def load(path: Path) -> Any:
    """Parsed tokenizer.json with `model.merges` as `Merges`.

    Raises ValueError when it is not JSON.
    """
    file = StoredFile(path)
    data = file.read(0, file.size).tobytes()
    key = _KEY.search(data)
    batches, end = _batches(data, key.end()) if key else ([], -1)
    if key is None or end < 0:
        return json.loads(data)
    value = json.loads(data[: key.end()] + data[end:])
    model = value.get("model") if isinstance(value, dict) else None
    if not isinstance(model, dict) or model.get("merges") != []:
        return json.loads(data)
    model["merges"] = Merges(file, batches)
    return value
