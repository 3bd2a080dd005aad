"""Text and JSON beside the weights, read with words for what often lies there instead.

A pointer that git-lfs left, a web page, UTF-16 from a Windows shell, JSON with a comma too many.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from kanna._util.typed import AGAIN, TypedObject
from kanna.errors import FormatError

POINTER = b"version https://git-lfs.github.com/spec/"
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
MOST_BYTES = 64 << 20
"""Of a JSON file beside the weights, but tokenizer.json: published ones are a hundredth of it."""
_MOST_PARTS = 500_000
_FIRST = 512
"""Bytes that tell what a file is."""


def refuse_stand_in(first: bytes, name: str) -> None:
    """Raise FormatError when a file begins like something that was fetched in its place.

    Args:
        first: The first bytes of the file.
        name: What to call it.
    """
    start = first[:_FIRST].lstrip()
    if start.startswith(POINTER):
        raise FormatError(
            f"{name} is a pointer of git-lfs, not the file itself",
            expected="the file it stands for",
            todo="run `git lfs install` and `git lfs pull` in the folder, or fetch the model again "
            "with `hf download`",
        )
    if start[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise FormatError(
            f"{name} is a web page, not a model",
            expected="a file of a model",
            todo="name the model; if it was fetched from the hub under this name, fetch it again: "
            "/resolve/ in the address in place of /blob/ gives the file",
        )


def refuse_stand_in_file(path: Path) -> None:
    """Raise FormatError when a file is a pointer of git-lfs or a web page."""
    with path.open("rb") as file:
        refuse_stand_in(file.read(_FIRST), path.name)


def decode(data: bytes, name: str) -> str:
    """The text of a file, which must be UTF-8; raises FormatError naming the encoding it has."""
    refuse_stand_in(data, name)
    kind = next((kind for mark, kind in _MARKS if data.startswith(mark)), None)
    if kind is None and b"\0" in data[:_FIRST]:
        kind = "UTF-16 without a byte order mark, or no text at all"
    if kind is None:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            kind = f"not UTF-8 (byte {data[error.start]:#04x} at {error.start}; perhaps Latin-1)"
    raise FormatError(
        f"{name} is {kind}",
        expected="UTF-8 without a byte order mark, which every library of this field reads",
        todo=f"save {name} again as UTF-8, or fetch it again",
    )


def read_text(path: Path) -> str:
    """The text of a side file; raises FormatError as `decode` does."""
    return decode(path.read_bytes(), path.name)


def refuse_bomb(data: bytes, name: str) -> None:
    """Raise FormatError for a JSON text of many objects and lists, which take 30 times its bytes.

    Args:
        data: The text.
        name: What to call it.
    """
    parts = data.count(b"[") + data.count(b"{")
    if parts > _MOST_PARTS + len(data) // 32:
        raise FormatError(
            f"{name} has {parts} objects and lists in {len(data)} bytes",
            expected=f"at most {_MOST_PARTS}",
            todo="fetch the file again",
        )


def parse_json(text: str, name: str) -> Any:
    """What a JSON text holds; raises FormatError with the line where it is none."""
    data = text.encode("utf-8", "replace")
    if len(data) > MOST_BYTES:
        raise FormatError(f"{name} has {len(data)} bytes", expected=f"at most {MOST_BYTES}")
    refuse_bomb(data, name)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        lines = text.splitlines()
        line = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else ""
        raise FormatError(
            f"{name} is not JSON: {error}" + (f", in {line:.60}" if line else ""),
            expected="strict JSON: no comma after the last member, no comments",
            todo="mend that line, or fetch the file again",
        ) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{name} is not JSON: {str(error)[:200]}", todo="fetch it again"
        ) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises FormatError as `decode` and `parse_json` do."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise FormatError(f"{path.name} has {size} bytes", expected=f"at most {MOST_BYTES}")
        text = read_text(path)
    except OSError as error:
        raise FormatError(f"{path.name} cannot be read: {error}", todo="fetch it again") from None
    return parse_json(text, path.name)


def read_object(path: Path, todo: str = AGAIN) -> TypedObject:
    """The object that a JSON file holds, to be read by name and kind; empty where it is absent.

    Args:
        path: The file.
        todo: What the user can do about a wrong value.

    Raises:
        FormatError: It is no JSON, or no object.
    """
    values: Any = read_json(path) if path.is_file() else {}
    return TypedObject.of(values, path.name, todo)


def repeated_keys(text: str) -> list[str]:
    """Keys that an object of a JSON text has twice with different values; the last one counts."""
    repeated: dict[str, None] = {}

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        last = dict(pairs)
        if len(last) < len(pairs):
            for key, value in pairs:
                if _differ(last[key], value):
                    repeated[key] = None
        return last

    json.loads(text, object_pairs_hook=members)
    return list(repeated)


def _differ(one: object, other: object) -> bool:
    try:
        return one != other
    except RecursionError:  # too deep to be compared
        return True
