"""What a component is, and how its options are read from the code that takes them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

from kanna._util import extras

# Where a verb reports, or what stands for the object itself: not for users to set.
_PLUMBING = frozenset({"self", "cls", "progress", "bar", "remark", "started"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: its type as the code has it.

    Attributes:
        default: None where `required` or where that is the default.
    """

    name: str
    type: str
    default: Any = None
    required: bool = False
    about: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Something a recipe can name.

    Attributes:
        name: As it is named.
        summary: One line.
        about: The whole description.
        where: The module, and the object in it, that it is.
        extra: What must be installed for it, "" for the base install.
        extra_for: What of it needs the extra, where not all does.
        facts: What else the code says of it.
    """

    kind: str
    name: str
    summary: str
    about: str = ""
    where: str = ""
    extra: str = ""
    extra_for: str = ""
    options: Sequence[Option] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def missing(self) -> list[str]:
        """Packages of its extra that are not here."""
        return extras.missing(self.extra)

    def to_dict(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self),
            "available": not self.missing,
            "missing": self.missing,
            "install": extras.command(self.extra) if self.missing else "",
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of component; its file's docstring says what it is and where it is named.

    Attributes:
        find: Every component of it, importing nothing that is not installed with kanna itself.
        more: A component too numerous to be listed, by its name, or None.
    """

    find: Callable[[], Iterable[Component]]
    more: Callable[[str], Component | None] | None = None


def prose(thing: Any) -> str:
    """The docstring of a module, class, function or attribute, with its indentation taken away."""
    return inspect.cleandoc(getattr(thing, "__doc__", "") or "")


def first(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    end = re.search(r"\.(?= |$)", paragraph)
    return paragraph[: end.start()] if end else paragraph.rstrip(":")


def of_module(kind: str, name: str, module: ModuleType, export: str = "", **more: Any) -> Component:
    """The component that a file is: described by its docstring."""
    text = prose(module)
    where = f"{module.__name__}:{export}" if export else module.__name__
    told: dict[str, Any] = {"summary": first(text), "about": text, "where": where, **more}
    return Component(kind=kind, name=name, **told)


def of_object(kind: str, name: str, thing: Any, **more: Any) -> Component:
    """The component that a class or function is."""
    text = prose(thing)
    where = f"{thing.__module__}:{thing.__qualname__}"
    told: dict[str, Any] = {"summary": first(text), "about": text, "where": where, **more}
    return Component(kind=kind, name=name, **told)


def options(
    of: Any, *, only: Iterable[str] = (), without: Iterable[str] = (), as_for: Sequence[Any] = ()
) -> tuple[Option, ...]:
    """The parameters of a function or the fields of a dataclass.

    Types, defaults, and what its docstring says of each.

    docstring does not

    Args:
        only, without: Names to keep, and to leave out.
        as_for: Functions that explain what its own.
    """
    found = (
        _fields(of) if dataclasses.is_dataclass(of) and isinstance(of, type) else _parameters(of)
    )
    wanted, left = frozenset(only), frozenset(without) | _PLUMBING
    kept = [o for o in found if o.name not in left and (not wanted or o.name in wanted)]
    told = explained(prose(of), [o.name for o in found])
    for one in as_for:
        told = {o.name: o.about for o in options(one) if o.about} | told
    return tuple(dataclasses.replace(o, about=told.get(o.name, "")) for o in kept)


def _parameters(of: Any) -> list[Option]:
    found: list[Option] = []
    for one in inspect.signature(of).parameters.values():
        required = one.default is inspect.Parameter.empty
        default = None if required else plain(one.default)
        found.append(
            Option(name=one.name, type=_type(one.annotation), default=default, required=required)
        )
    return found


def _fields(of: Any) -> list[Option]:
    found: list[Option] = []
    for one in dataclasses.fields(of):
        if not one.init:
            continue
        made = one.default_factory
        default: Any = made() if made is not dataclasses.MISSING else one.default
        required = default is dataclasses.MISSING
        default = None if required else plain(default)
        found.append(
            Option(name=one.name, type=_type(one.type), default=default, required=required)
        )
    return found


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    text = (
        annotation
        if isinstance(annotation, str)
        else getattr(annotation, "__name__", str(annotation))
    )
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).strip("\"'")


def plain(value: Any) -> Any:
    """A default as JSON has it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        items: Iterable[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [
            plain(v)
            for v in (sorted(items, key=str) if isinstance(value, (set, frozenset)) else items)
        ]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return getattr(value, "__name__", str(value))


def explained(text: str, names: Sequence[str]) -> dict[str, str]:
    """What a docstring says of each of `names`, where it has `name: text` or `name, other: text` at the beginning of a
    line or of a sentence."""
    if not names:
        return {}
    one = "|".join(map(re.escape, names))
    entry = re.compile(rf"(?:\A|(?<=\n)|(?<=[.;] )|(?<=: )) *((?:{one})(?:, (?:\w+))*):\s+")
    told: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        marks = list(entry.finditer(paragraph))
        for mark, after in zip_longest(marks, marks[1:]):
            said = " ".join(
                paragraph[mark.end() : after.start() if after else None].split()
            ).rstrip(" .;")
            for name in mark[1].split(", "):
                told.setdefault(name, said)
    return told
