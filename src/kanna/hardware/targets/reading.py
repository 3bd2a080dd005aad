"""Target profiles read from YAML: every figure with its source, none of them absurd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kanna._util import typed
from kanna._util.nearest import unreadable
from kanna._util.typed import FieldKind, TypedObject
from kanna._util.units import format_size, parse_size
from kanna.errors import FormatError, UsageError
from kanna.hardware.operators import OperatorTable, tables
from kanna.hardware.targets.base import BASES, DeviceBackend, DeviceProfile, Figure

T = TypeVar("T")

MOST_BYTES = 1 << 16
_TODO = "compare it with docs/targets.md"
_TEXT = typed.text(2000, 1)
_KB, _TB = 10**3, 10**12
_TOP = ("title", "memory", "bandwidth", "cores", "context", "backends")
_SIZES = ("total", "available")
_BAD_TAGS = (AttributeError, TypeError)
_FIGURE = ("value", "basis", "source")
_BACKEND = (
    "operators",
    "formats",
    "unavailable",
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


class _ProfileLoader(yaml.SafeLoader):
    """YAML whose mappings have every key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"{sorted(twice)[0]} is here twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class _Part:
    """An object of a profile; only names in `known` may be in it."""

    fields: TypedObject

    @classmethod
    def of(cls, fields: TypedObject, known: tuple[str, ...]) -> _Part:
        for name in fields.values:
            if name not in known:
                close = get_close_matches(str(name), known, 1)
                raise FormatError(
                    f"{fields.file} has {fields.inside}{name}, which no profile has",
                    expected=close[0] if close else ", ".join(known),
                    todo=_TODO,
                )
        return cls(fields)

    def figure(self, name: str, kind: FieldKind[T]) -> Figure[T]:
        """A figure that must be there, with its source."""
        if name not in self.fields:
            raise FormatError(
                f"{self.fields.file} has no {self.fields.inside}{name}",
                expected=f"value ({kind.words}), basis and source",
                todo=_TODO,
            )
        part = _Part.of(self.fields.part(name), _FIGURE).fields
        value = part.need("value", kind)
        basis = part.need("basis", _TEXT)
        if basis not in BASES:
            raise FormatError(
                f"{part.file} has {part.inside}basis = {basis}",
                expected=" or ".join(BASES),
                todo=_TODO,
            )
        return Figure(value, basis, part.need("source", _TEXT))

    def optional(self, name: str, kind: FieldKind[T]) -> Figure[T] | None:
        """A figure that need not be there."""
        return self.figure(name, kind) if name in self.fields else None


def read(path: Path) -> list[DeviceProfile]:
    """The devices of a profile, one per size of memory; the first is the one that people mean.

    Raises:
        FormatError: It is no profile, or a figure is missing or absurd; the error names it.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FormatError(f"{path} has {path.stat().st_size} bytes", expected="64 kB at most")
        value = _ProfileLoader(path.read_text(encoding="utf-8")).get_single_data()
    except UnicodeDecodeError:
        raise FormatError(f"{path} is no text in UTF-8", expected="a profile in YAML") from None
    # Values with a tag of their own that are none fail in PyYAML with whatever comes.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, *_BAD_TAGS) as error:
        problem = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{path} is no YAML: {problem}", expected="a profile", todo=_TODO
        ) from None
    except OSError as error:
        raise unreadable(path, error, FormatError, todo="check the path") from None
    top = _Part.of(TypedObject.of(value, str(path), _TODO), _TOP)
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
    stem: str, variant: str, top: _Part, backends: Mapping[str, DeviceBackend]
) -> DeviceProfile:
    memory = _Part.of(top.fields.part("memory").part(variant), _SIZES)
    target = DeviceProfile(
        name=f"{stem}-{variant}",
        title=f"{top.fields.need('title', _TEXT)}, {variant.upper().replace('GB', ' GB')}",
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
    part = _Part.of(fields, _BACKEND)
    return DeviceBackend(
        name=name,
        operators=_operators(fields),
        formats=tuple(fields.get("formats", typed.listed(_TEXT), ["gguf"])),
        unavailable=fields.get("unavailable", _TEXT, ""),
        efficiency=part.optional("efficiency", typed.number(0.01, 1.0)),
        error=_error(part),
        gigaflops=part.optional("gigaflops", typed.number(0.1, 1e7)),
        memory=part.optional("memory", MEMORY),
        bandwidth=part.optional("bandwidth", BANDWIDTH),
        alignment=part.optional("alignment", typed.whole(1, 4096)),
    )


def _error(part: _Part) -> Figure[float] | None:
    """The error of predictions, which must be there where something can be predicted."""
    kind: Callable[[float, float], FieldKind[float]] = typed.number
    if "efficiency" in part.fields or "gigaflops" in part.fields:
        return part.figure("error", kind(0.01, 3.0))
    return part.optional("error", kind(0.01, 3.0))


def _operators(fields: TypedObject) -> OperatorTable | None:
    if "unavailable" in fields and "operators" not in fields:
        return None
    name = fields.need("operators", _TEXT)
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
