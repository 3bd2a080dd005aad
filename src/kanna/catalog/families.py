"""Components of the kind `families`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kanna import families
from kanna._util import plugins
from kanna.catalog.base import Component, ComponentOption, Kind, of_module, plain
from kanna.families.base import Family
from kanna.formats.onnx import build, encoder


def _find() -> Iterator[Component]:
    for name in families.names():
        family = families.get(name)
        module = plugins.module(families.__name__, name)
        yield of_module(
            "families",
            name,
            module,
            "FAMILY",
            summary=family.summary,
            options=_keys(family),
            facts=_facts(family),
        )
    yield of_module(
        "families",
        "encoder",
        encoder,
        "is_encoder",
        summary="Encoders as ONNX graphs: models that turn text into one vector",
        extra=build.EXTRA,
        facts={"architectures": encoder.ARCHITECTURES},
    )


def _keys(family: Family) -> tuple[ComponentOption, ...]:
    keys: list[ComponentOption] = []
    for key in dict.fromkeys([*family.defaults, *family.fixed]):
        value = family.defaults.get(key)
        only = family.fixed.get(key, ())
        kinds = {type(v).__name__ for v in (value, *only) if v is not None}
        about = "only " + " or ".join(map(str, only)) if only else ""
        keys.append(
            ComponentOption(
                name=key, type=" | ".join(sorted(kinds)), default=plain(value), about=about
            )
        )
    return tuple(keys)


def _facts(family: Family) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "architectures": list(family.architectures),
        "GGUF architecture": family.arch,
        "rope scalings": sorted(family.rope_types),
    }
    if family.rotate_half:
        facts["rows of q and k"] = "interleaved for llama.cpp"
    if family.norm_offset:
        facts["added to norms"] = family.norm_offset
    return facts


KIND = Kind(
    summary="Families: architectures, recognised by `architectures` of a source's config.json",
    about=(
        "Options are the keys of config.json that a family has a default for. A GGUF of any "
        "architecture can be requantized."
    ),
    find=_find,
)
