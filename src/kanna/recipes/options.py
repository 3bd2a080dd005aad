"""Options of a verb as pydantic has them, read from its signature."""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from functools import cache
from pathlib import Path
from typing import Union

from pydantic import BaseModel, ConfigDict, Field, create_model

import kanna
from kanna.recipes import verbs

_OF_THE_RUN = frozenset({"out", "progress", "remark", "track", "experiment", "track_weights"})
_PLAIN = (str, int, float, bool, Path, type(None))


@cache
def model(name: str) -> type[BaseModel]:
    """The options that a recipe may give a verb."""
    function = getattr(kanna, name)
    hints = typing.get_type_hints(function)
    about = _descriptions(inspect.getdoc(function) or "")
    fields: dict[str, tuple[object, object]] = {}
    for parameter in inspect.signature(function).parameters.values():
        files = parameter.name in verbs.get(name).inputs
        kind = _as_json(hints[parameter.name], mappings=not files)
        if parameter.name in _OF_THE_RUN | verbs.get(name).own or kind is None:
            continue
        required = parameter.default is inspect.Parameter.empty
        default = ... if required else _default(parameter.default)
        described = Field(default, description=about.get(parameter.name, ""))
        fields[parameter.name] = (kind, described)
    config = ConfigDict(extra="forbid", strict=True, title=f"Options of {name}")
    return create_model(f"{name.title()}Options", __config__=config, **fields)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _as_json(kind: object, *, mappings: bool = True) -> object:
    """The part of a type that a file can hold; None where there is none."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if any(kind is plain for plain in _PLAIN):
        return kind
    if origin in (Union, types.UnionType):
        able = [one for part in parts if (one := _as_json(part, mappings=mappings)) is not None]
        return Union[tuple(able)] if able else None  # noqa: UP007  # of parts known when it runs
    if origin in (collections.abc.Sequence, collections.abc.Iterable, list, tuple):
        item = _as_json(parts[0])
        return None if item is None else types.GenericAlias(list, (item,))
    if mappings and origin in (collections.abc.Mapping, dict):
        return types.GenericAlias(dict, (str, _as_json(parts[1])))
    return None


def _default(value: object) -> object:
    return list(typing.cast("tuple[object, ...]", value)) if isinstance(value, tuple) else value


def _descriptions(text: str) -> dict[str, str]:
    """What a Google docstring says of each parameter."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    entries = re.split(r"^    (?=\w+: )", section[1] if section else "", flags=re.MULTILINE)
    pairs = [entry.partition(": ") for entry in entries if entry.strip()]
    return {name.strip(): " ".join(words.split()) for name, _, words in pairs}
