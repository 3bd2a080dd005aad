"""The records of the catalog, and how options are read from commands, signatures and fields."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from kanna._util import extras, plugins

# Callbacks of verbs, and the object itself: not for users to set.
_PLUMBING = frozenset({"self", "cls", "progress", "bar", "remark", "started"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComponentOption:
    """One option.

    Attributes:
        name: As it is named.
        type: Its type as the code has it.
        default: Its default; None where `required` or where that is the default.
        required: Whether it must be given.
        about: What it does.
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
        kind: Kind of the component.
        name: As it is named.
        summary: What it is, in a line.
        about: The documentation of its code, or more about it.
        where: The module and the object in it that define it.
        extra: What must be installed for it, "" for the base install.
        extra_for: What of it needs the extra, where not all does.
        options: What can be set.
        facts: Further properties, by name.
    """

    kind: str
    name: str
    summary: str
    about: str = ""
    where: str = ""
    extra: str = ""
    extra_for: str = ""
    options: Sequence[ComponentOption] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def missing(self) -> list[str]:
        """Packages of its extra that are not here."""
        return extras.missing(self.extra)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them, and whether it is available."""
        return {
            **dataclasses.asdict(self),
            "available": not self.missing,
            "missing": self.missing,
            "install": extras.command(self.extra) if self.missing else "",
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of component.

    Attributes:
        summary: What it is, in a line.
        about: Where it is named, and what else there is to know.
        find: Returns every component, importing only what is installed with kanna itself.
        more: Returns a component by its name where there are too many to list, or None.
    """

    summary: str
    about: str = ""
    find: Callable[[], Iterable[Component]]
    more: Callable[[str], Component | None] | None = None


def of_module(
    kind: str, name: str, module: ModuleType, export: str = "", *, summary: str, **more: Any
) -> Component:
    """Returns the component that a module defines; its docstring is shown as it is.

    Args:
        kind: Kind of the component.
        name: Name of the component.
        module: Where it is defined.
        export: The object in the module that it is.
        summary: What it is, in a line.
        more: Further fields of the component.
    """
    where = f"{module.__name__}:{export}" if export else module.__name__
    about = inspect.getdoc(module) or ""
    return Component(kind=kind, name=name, summary=summary, about=about, where=where, **more)


def of_object(kind: str, name: str, thing: Any, *, summary: str, **more: Any) -> Component:
    """Returns the component that a class or function is; its docstring is shown as it is.

    Args:
        kind: Kind of the component.
        name: Name of the component.
        thing: The class or function.
        summary: What it is, in a line.
        more: Further fields of the component.
    """
    where = f"{thing.__module__}:{thing.__qualname__}"
    about = inspect.getdoc(thing) or ""
    return Component(kind=kind, name=name, summary=summary, about=about, where=where, **more)


def command_options(
    verb: str, function: Callable[..., Any], *, only: Iterable[str] = ()
) -> tuple[ComponentOption, ...]:
    """Returns the options of a verb as its command declares them.

    Names and descriptions are the command's; types and defaults are those of the function where it
    has the same parameter.

    Args:
        verb: Name of the command.
        function: The function of `kanna` that the command calls.
        only: Names to include; all where it is empty.
    """
    command: click.Command = plugins.load("kanna.cli.commands", verb, "COMMAND")
    parameters = {o.name: o for o in options(function)}
    included = frozenset(only)
    listed: list[ComponentOption] = []
    for param in command.params:
        name = param.name or ""
        if not param.expose_value or (included and name not in included):
            continue
        about = (param.help or "") if isinstance(param, click.Option) else ""
        declared = ComponentOption(
            name=name,
            type=param.type.name,
            default=None if param.required else plain(param.get_default(click.Context(command))),
            required=param.required,
        )
        option = parameters.get(name, declared)
        listed.append(dataclasses.replace(option, about=about))
    return tuple(listed)


def options(
    of: Any,
    *,
    only: Iterable[str] = (),
    without: Iterable[str] = (),
    about: Mapping[str, str] | None = None,
) -> tuple[ComponentOption, ...]:
    """Returns the parameters of a function or the fields of a dataclass.

    Args:
        of: The function or dataclass. A field is described by `metadata["about"]`.
        only: Names to include; all where it is empty.
        without: Names to leave out.
        about: Descriptions by name, for what has no metadata.
    """
    listed = (
        _fields(of) if dataclasses.is_dataclass(of) and isinstance(of, type) else _parameters(of)
    )
    included, excluded = frozenset(only), frozenset(without) | _PLUMBING
    described = about or {}
    return tuple(
        dataclasses.replace(o, about=o.about or described.get(o.name, ""))
        for o in listed
        if o.name not in excluded and (not included or o.name in included)
    )


def _parameters(of: Any) -> list[ComponentOption]:
    listed: list[ComponentOption] = []
    for parameter in inspect.signature(of).parameters.values():
        required = parameter.default is inspect.Parameter.empty
        default = None if required else plain(parameter.default)
        listed.append(
            ComponentOption(
                name=parameter.name,
                type=_type(parameter.annotation),
                default=default,
                required=required,
            )
        )
    return listed


def _fields(of: Any) -> list[ComponentOption]:
    listed: list[ComponentOption] = []
    for entry in dataclasses.fields(of):
        if not entry.init:
            continue
        factory = entry.default_factory
        default: Any = factory() if factory is not dataclasses.MISSING else entry.default
        required = default is dataclasses.MISSING
        default = None if required else plain(default)
        listed.append(
            ComponentOption(
                name=entry.name,
                type=_type(entry.type),
                default=default,
                required=required,
                about=entry.metadata.get("about", ""),
            )
        )
    return listed


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
    """Returns a default as JSON has it."""
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
