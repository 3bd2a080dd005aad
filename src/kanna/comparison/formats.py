"""What a comparison knows of each format: one entry, and a format takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How artefacts of a format are compared.

    Attributes:
        runtime: That runs them.
        presets: Made when none is named.
        whole: The one nearest to the source's own weights; "": 16 bits, of the type that suits
            them.
        ending: Of an artefact's name.
    """

    runtime: str
    presets: tuple[str, ...]
    whole: str
    ending: str = ""


FORMATS = {
    "gguf": Format(
        runtime="llamacpp",
        presets=("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K"),
        whole="",
        ending=".gguf",
    ),
    "onnx": Format(runtime="onnx", presets=("w8", "int4-mixed", "int4"), whole="fp32"),
    "mlx": Format(runtime="mlx", presets=("q8", "mixed", "q4"), whole=""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One artefact to make.

    Attributes:
        given: Whether the user named it, or it is a default that may be left out.
    """

    format: str
    preset: str
    given: bool

    @property
    def name(self) -> str:
        """As it is shown and as `convert` takes it."""
        return self.preset if self.format == "gguf" else f"{self.format}:{self.preset}"

    def path(self, folder: Path, model: str) -> Path:
        return folder / f"{model}-{self.name.replace(':', '-')}{FORMATS[self.format].ending}"


def choices(formats: Sequence[str], presets: Sequence[str] | None) -> list[Choice]:
    """What to make, format by format: the presets named for it (`onnx:int4`; without a prefix GGUF's), else its own.

    Raises UsageError for a format that cannot be compared, PlanError for an unknown preset of GGUF.
    """
    from kanna.plan import gguf as known

    named: dict[str, list[str]] = {}
    for preset in presets or ():
        format, colon, rest = preset.partition(":")
        named.setdefault(format if colon else "gguf", []).append(rest if colon else preset)
    wanted = list(dict.fromkeys([*formats, *named]))
    if unknown := [f for f in wanted if f not in FORMATS]:
        raise UsageError(f"no format {unknown[0]!r} to compare", expected=", ".join(FORMATS))
    if not wanted:
        raise UsageError("no format was given", expected=", ".join(FORMATS))
    found: list[Choice] = []
    for format in wanted:
        chosen = named.get(format) or FORMATS[format].presets
        if format == "gguf":
            chosen = [known.get(p).name for p in chosen]
        found += [
            Choice(format=format, preset=p, given=format in named) for p in dict.fromkeys(chosen)
        ]
    return found
