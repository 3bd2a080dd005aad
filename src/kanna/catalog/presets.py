"""Components of the kind `presets`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna import conversion, formats
from kanna.catalog.base import Component, Kind


def _find() -> Iterator[Component]:
    for format in map(formats.get, sorted(formats.names(), key=_default_first)):
        for preset in format.presets.values():
            yield Component(
                kind="presets",
                name=formats.qualified(format.name, preset.name),
                summary=preset.summary[0].upper() + preset.summary[1:],
                where=preset.where,
                extra=conversion.get(format.name).extra,
                facts=dict(preset.facts),
            )


def _default_first(name: str) -> tuple[bool, str]:
    return name != formats.DEFAULT, name


KIND = Kind(
    summary="Presets: named plans, which encoding each matrix gets",
    about=(
        "Named by `--preset`, `--like` and in plan files of GGUF. Without a prefix they are "
        "GGUF's, those of llama.cpp."
    ),
    find=_find,
)
