"""Costs of encodings as a file holds them, which anybody may have written."""

from __future__ import annotations

import json
import re
from pathlib import Path

from kanna import encodings, formats
from kanna._util import typed
from kanna._util.nearest import nearest, unreadable
from kanna._util.typed import TypedObject
from kanna.errors import FormatError, UnsupportedError, UsageError
from kanna.formats.base import Format
from kanna.hardware.encoding_speed import KIND, EncodingSpeeds

_MOST_BYTES = 1 << 20
_TODO = "`kanna bench SRC --encodings --export FILE` writes one"
_COST = typed.number(1e-6, 1e9)
_NAME = typed.text(200)
_SHAPE = re.compile(r"[1-9]\d{0,8}x[1-9]\d{0,8}")
_BACKEND = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def read(path: Path) -> EncodingSpeeds:
    """A table from a file.

    Raises:
        FormatError: It is none, or a figure is missing or absurd; the error names it.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FormatError(
                f"{path} has {path.stat().st_size} bytes", expected="1 MB at most", todo=_TODO
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error, FormatError, todo="check the path") from None
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is no JSON", expected="encoding speeds", todo=_TODO) from None
    return parse(value, str(path))


def check_format(table: EncodingSpeeds, format: str) -> None:
    """Raise UsageError for a table of another format.

    Args:
        table: That was named.
        format: That is asked for.
    """
    if table.format != format:
        raise UsageError(
            f"costs of encodings of {table.format} say nothing of {format}",
            expected=f"a table of {format}",
            todo=f"`kanna bench SRC --encodings --format {format} --export FILE` writes one",
        )


def parse(value: object, file: str) -> EncodingSpeeds:
    """The same from a JSON value.

    Args:
        value: The object.
        file: Where it was read, for errors.
    """
    top = TypedObject.of(value, file, _TODO)
    if top.get("kind", _NAME, "") != KIND:
        raise FormatError(f"{file} holds no encoding speeds", expected=f"kind = {KIND}", todo=_TODO)
    format = _format(top)
    generation = _costs(top, "generation", format)
    if not generation:
        raise FormatError(f"{file} names no encoding in generation", todo=_TODO)
    ends, spread = typed.listed(_COST, 2), top.part("spread")
    pairs = {name: spread.need(name, ends) for name in spread.values}
    return EncodingSpeeds(
        machine=top.get("machine", _NAME, ""),
        build=top.get("build", _NAME, ""),
        threads=top.get("threads", typed.whole(), 0),
        shapes=top.get("shapes", _NAME, ""),
        token=top.need("token", typed.number(0, 1e9)),
        prompt_token=top.get("prompt_token", typed.number(0, 1e9), 0.0),
        generation=generation,
        head=_costs(top, "head", format),
        prompt=_costs(top, "prompt", format),
        spread={name: (pair[0], pair[-1]) for name, pair in pairs.items() if pair},
        by_shape=_by_shape(top, "by_shape", format),
        prompt_by_shape=_by_shape(top, "prompt_by_shape", format),
        error=top.get("error", typed.number(0, 1e3), None),
        basis=top.get("basis", _NAME, "measured"),
        format=format.name,
        backend=_matching(top, "backend", "cpu", _BACKEND, "a processor, such as cpu or metal"),
    )


def _format(top: TypedObject) -> Format:
    name, known = top.get("format", _NAME, formats.DEFAULT), formats.runnable()
    if name not in known:
        raise FormatError(
            f"{top.file} has format = {typed.shown(name)}{nearest(name, known)}",
            expected=" or ".join(known),
            todo=_TODO,
        )
    return formats.get(name)


def _matching(
    top: TypedObject, key: str, default: str, pattern: re.Pattern[str], expected: str
) -> str:
    value = top.get(key, _NAME, default)
    if not pattern.fullmatch(value):
        raise FormatError(
            f"{top.file} has {key} = {typed.shown(value)}", expected=expected, todo=_TODO
        )
    return value


def _costs(top: TypedObject, key: str, format: Format) -> dict[str, float]:
    """Costs by encoding, each one that the format holds matrices in."""
    part = top.part(key)
    costs: dict[str, float] = {}
    for name in part.values:
        try:
            encoding = encodings.get(name)
        except UnsupportedError as error:
            raise FormatError(
                f"{part.file} has {part.inside}{name}: {error.found}",
                expected=error.expected,
                todo=_TODO,
            ) from None
        if not format.carries(encoding):
            raise FormatError(
                f"{part.file} has {part.inside}{name}, which {format.title} does not hold",
                expected=f"encodings of {format.name}",
                todo=_TODO,
            )
        costs[encoding.name] = part.need(name, _COST)
    return costs


def _by_shape(top: TypedObject, key: str, format: Format) -> dict[str, dict[str, float]]:
    part = top.part(key)
    for shape in part.values:
        if not _SHAPE.fullmatch(shape):
            raise FormatError(
                f"{part.file} has {part.inside}{typed.shown(shape)}",
                expected="rows and columns of a matrix, such as 4096x1024",
                todo=_TODO,
            )
    return {shape: _costs(part, shape, format) for shape in part.values}
