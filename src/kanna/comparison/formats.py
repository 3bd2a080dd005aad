"""What a comparison makes: presets of one format or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna import formats
from kanna.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetChoice:
    """One artefact to make.

    Attributes:
        named: Whether the user named it; a default may be left out where it cannot be made.
    """

    format: str
    preset: str
    named: bool

    @property
    def name(self) -> str:
        """As it is shown and as `convert` takes it."""
        return formats.qualified(self.format, self.preset)

    def path(self, folder: Path, model: str) -> Path:
        """Where the artefact of a model called `model` goes."""
        return folder / f"{model}-{self.name.replace(':', '-')}{formats.get(self.format).suffix}"


def choices(of: Sequence[str], presets: Sequence[str] | None) -> list[PresetChoice]:
    """What to make, format by format: the presets named for it, else its own.

    Args:
        of: Formats.
        presets: As the command line has them, `onnx:int4`; those of GGUF have no prefix.

    Raises:
        UsageError: A format cannot be compared.
        PlanError: A preset is unknown.
    """
    named: dict[str, list[str]] = {}
    for qualified in presets or ():
        format, preset = formats.parse_preset(None, qualified)
        named.setdefault(format, []).append(preset or "")
    wanted = list(dict.fromkeys([*of, *named]))
    able = formats.runnable()
    if unknown := [f for f in wanted if f not in able]:
        raise UsageError(f"no format {unknown[0]!r} to compare", expected=", ".join(able))
    if not wanted:
        raise UsageError("no format was given", expected=", ".join(able))
    chosen: list[PresetChoice] = []
    for name in wanted:
        format = formats.get(name)
        own = [format.canonical(p) for p in named.get(name) or format.compared_presets]
        chosen += [
            PresetChoice(format=name, preset=p, named=name in named) for p in dict.fromkeys(own)
        ]
    return chosen
