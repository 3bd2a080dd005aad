"""Profiles of execution providers read from YAML: every figure with its source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kanna._util import typed
from kanna._util.typed import FieldKind, TypedObject
from kanna.errors import FormatError
from kanna.hardware.figures import BASES
from kanna.hardware.profile_files import TEXT, ProfilePart, load
from kanna.hardware.providers.base import Plugin, ProviderOperators, ProviderProfile

_TODO = "compare it with docs/providers.md"
_DEVICES = ("cpu", "gpu", "npu")
TYPES = frozenset(
    (
        *("bfloat16", "float16", "float", "double", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)),
    )
)
"""Element types of tensors, as ONNX calls them."""
_NAME = re.compile(r"(com\.microsoft\.)?[A-Z][A-Za-z0-9]*")
_DATE = re.compile(r"20\d\d-[01]\d-[0-3]\d")
_TOP = (
    "title",
    "provider",
    "genai",
    "device",
    "package",
    "plugin",
    "options",
    "checked",
    "opset",
    "static_shapes",
    "layout",
    "bits",
    "block_sizes",
    "accuracy_levels",
    "operators",
)


def _matching(pattern: re.Pattern[str], words: str) -> FieldKind[str]:
    return FieldKind(
        words, lambda v: v if isinstance(v, str) and pattern.fullmatch(v) is not None else None
    )


def _one_of(names: Sequence[str]) -> FieldKind[str]:
    return FieldKind(" or ".join(names), lambda v: v if isinstance(v, str) and v in names else None)


def _types(value: object) -> frozenset[str] | None:
    """The types of an operator, all of them for `any`; None for what says none."""
    if value == "any":
        return TYPES
    if not isinstance(value, list) or not value:
        return None
    known = {kind for kind in value if isinstance(kind, str) and kind in TYPES}
    return frozenset(known) if len(known) == len(value) else None


_OPERATOR_TYPES = FieldKind(f"any, or a list of {', '.join(sorted(TYPES))}", _types)
_NUMBERS = typed.listed(typed.whole(0, 4096), 32)


def read(path: Path) -> ProviderProfile:
    """The provider of a profile.

    Raises:
        FormatError: It is no profile, or a figure is missing or absurd; the error names it.
    """
    top = ProfilePart.of(load(path, _TODO), _TOP, _TODO)
    fields = top.fields
    return ProviderProfile(
        name=path.stem,
        title=fields.need("title", TEXT),
        provider=fields.need(
            "provider",
            _matching(re.compile(r"\w+ExecutionProvider"), "such as NAMEExecutionProvider"),
        ),
        genai=fields.need("genai", TEXT),
        device=fields.need("device", _one_of(_DEVICES)),
        package=fields.need("package", TEXT),
        plugin=_plugin(fields),
        options=_texts(fields, "options"),
        checked=fields.need("checked", _matching(_DATE, "a day such as 2026-11-30, as text")),
        opset=top.figure("opset", typed.whole(7, 100)),
        static_shapes=top.figure("static_shapes", typed.FLAG),
        layout=top.figure("layout", _one_of(("any", "NCHW", "NHWC"))),
        bits=top.optional("bits", _NUMBERS),
        block_sizes=top.optional("block_sizes", _NUMBERS),
        accuracy_levels=top.optional("accuracy_levels", _NUMBERS),
        operators=_operators(fields.part("operators")),
    )


def _texts(fields: TypedObject, key: str) -> Mapping[str, str]:
    if key not in fields:
        return {}
    part = fields.part(key)
    return {str(name): part.need(str(name), TEXT) for name in part.values}


def _plugin(fields: TypedObject) -> Plugin | None:
    if "plugin" not in fields:
        return None
    part = ProfilePart.of(fields.part("plugin"), ("module", "paths"), _TODO).fields
    return Plugin(module=part.need("module", TEXT), paths=_texts(part, "paths"))


def _operators(fields: TypedObject) -> ProviderOperators:
    part = ProfilePart.of(fields, ("basis", "source", "names"), _TODO).fields
    names = part.part("names")
    if not names.values:
        raise FormatError(
            f"{part.file} has no {part.inside}names", expected="NAME: TYPES", todo=_TODO
        )
    for name in names.values:
        if _NAME.fullmatch(str(name)) is None:
            raise FormatError(
                f"{names.file} has {names.inside}{typed.shown(name)}",
                expected="an operator such as MatMul or com.microsoft.MatMulNBits",
                todo=_TODO,
            )
    types = {str(name): names.need(str(name), _OPERATOR_TYPES) for name in names.values}
    return ProviderOperators(
        types={name: None if kinds == TYPES else kinds for name, kinds in types.items()},
        basis=part.need("basis", _one_of(BASES)),
        source=part.need("source", TEXT),
    )
