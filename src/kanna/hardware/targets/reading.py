"""Target profiles read from YAML: every figure with its source, none of them absurd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from kanna import formats
from kanna._util import typed
from kanna._util.nearest import nearest
from kanna._util.typed import FieldKind, TypedObject
from kanna._util.units import format_size, parse_size
from kanna.errors import FormatError, UsageError
from kanna.hardware.figures import Figure
from kanna.hardware.operators import OperatorTable, tables
from kanna.hardware.profile_files import TEXT, ProfilePart, load
from kanna.hardware.targets.base import DeviceBackend, DeviceProfile

T = TypeVar("T")

_TODO = "compare it with docs/targets.md"
_KB, _TB = 10**3, 10**12
_TOP = ("title", "memory", "bandwidth", "cores", "context", "backends")
_SIZES = ("total", "available")
_BACKEND = (
    "operators",
    "formats",
    "unavailable",
    "instead",
    "efficiency",
    "error",
    "gigaflops",
    "memory",
    "bandwidth",
    "alignment",
)


def size(low: int, high: int) -> FieldKind[int]:
    """Bytes as a text such as 8GiB, or a whole number, from `low` to `high`."""

    def convert(value: object) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int | str):
            return None
        try:
            read = parse_size(value)
        except UsageError:
            return None
        return read if low <= read <= high else None

    return FieldKind(f"a size from {format_size(low)} to {format_size(high)}", convert)


MEMORY = size(64 * 10**6, 16 * _TB)
BANDWIDTH = size(100 * 10**6, 100 * _TB)


def _part(fields: TypedObject, known: tuple[str, ...]) -> ProfilePart:
    return ProfilePart.of(fields, known, _TODO)


def read(path: Path) -> list[DeviceProfile]:
    """The devices of a profile, one per size of memory; the first is the one that people mean.

    Raises:
        FormatError: It is no profile, or a figure is missing or absurd; the error names it.
    """
    top = _part(load(path, _TODO), _TOP)
    sizes = _names(top.fields, "memory")
    backends = {
        name: _backend(name, top.fields.part("backends").part(name))
        for name in _names(top.fields, "backends")
    }
    return [_target(path.stem, variant, top, backends) for variant in sizes]


def _names(fields: TypedObject, key: str) -> list[str]:
    """Names in a mapping that must hold something."""
    part = fields.part(key)
    if not part.values:
        raise FormatError(f"{fields.file} has no {key}", expected="NAME: FIGURES", todo=_TODO)
    keys: list[object] = list(part.values)
    for name in keys:
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
            raise FormatError(
                f"{fields.file} has {key}.{typed.shown(name)}", expected="a plain name", todo=_TODO
            )
        part.need(name, typed.OBJECT)
    return list(part.values)


def _target(
    stem: str, variant: str, top: ProfilePart, backends: Mapping[str, DeviceBackend]
) -> DeviceProfile:
    memory = _part(top.fields.part("memory").part(variant), _SIZES)
    target = DeviceProfile(
        name=f"{stem}-{variant}",
        profile=stem,
        title=f"{top.fields.need('title', TEXT)}, {variant.upper().replace('GB', ' GB')}",
        total=memory.figure("total", MEMORY),
        available=memory.figure("available", MEMORY),
        bandwidth=top.figure("bandwidth", BANDWIDTH),
        cores=top.figure("cores", typed.whole(1, 4096)),
        context=top.figure("context", typed.whole(16, 1 << 24)),
        backends=backends,
    )
    spaces = {f"memory.{variant}.available": target.available}
    spaces |= {f"backends.{b.name}.memory": b.memory for b in backends.values() if b.memory}
    for name, figure in spaces.items():
        own = name.startswith("backends.") and backends[name.split(".")[1]].bandwidth is not None
        # A graphics card has memory of its own, which the device's does not bound.
        if figure.value > target.total.value and not own:
            raise FormatError(
                f"{top.fields.file} has {name} = {format_size(figure.value)}",
                expected=f"at most the total, {format_size(target.total.value)}",
                todo=_TODO,
            )
    return target


def _backend(name: str, fields: TypedObject) -> DeviceBackend:
    part = _part(fields, _BACKEND)
    return DeviceBackend(
        name=name,
        operators=_operators(fields),
        formats=_formats(fields),
        unavailable=fields.get("unavailable", TEXT, ""),
        instead=fields.get("instead", TEXT, ""),
        efficiency=part.optional("efficiency", typed.number(0.01, 1.0)),
        error=_error(part),
        gigaflops=part.optional("gigaflops", typed.number(0.1, 1e7)),
        memory=part.optional("memory", MEMORY),
        bandwidth=part.optional("bandwidth", BANDWIDTH),
        alignment=part.optional("alignment", typed.whole(1, 4096)),
    )


def _error(part: ProfilePart) -> Figure[float] | None:
    """The error of predictions, which must be there where something can be predicted."""
    kind: Callable[[float, float], FieldKind[float]] = typed.number
    if "efficiency" in part.fields or "gigaflops" in part.fields:
        return part.figure("error", kind(0.01, 3.0))
    return part.optional("error", kind(0.01, 3.0))


def _formats(fields: TypedObject) -> tuple[str, ...]:
    """Names of the formats that a backend runs; those that no runtime of kanna runs are none."""
    known = formats.runnable()
    named = fields.get("formats", typed.listed(TEXT, len(known)), [formats.DEFAULT])
    for name in named:
        if name not in known:
            raise FormatError(
                f"{fields.file} has {fields.inside}formats with {name!r}{nearest(name, known)}",
                expected=", ".join(known),
                todo=_TODO,
            )
    return tuple(named)


def _operators(fields: TypedObject) -> OperatorTable | None:
    if "unavailable" in fields and "operators" not in fields:
        return None
    name = fields.need("operators", TEXT)
    known = tables()
    if name not in known:
        close = get_close_matches(name.lower(), {n.lower(): n for n in known}, 1, 0.5)
        near = next((n for n in known if close and n.lower() == close[0]), "")
        raise FormatError(
            f"{fields.file} has {fields.inside}operators = {name}, which llama.cpp has no table of",
            expected=f"{near} perhaps; " * bool(near) + ", ".join(known),
            todo=_TODO,
        )
    return known[name]
