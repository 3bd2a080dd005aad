"""Formats: containers that tensors are read from and streamed to.

Each folder is one, under its own name; those that `convert` writes export a record as FORMAT.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kanna._util import plugins
from kanna.errors import FormatError, UsageError
from kanna.formats import folder_files

if TYPE_CHECKING:
    from kanna.formats.base import Format

DEFAULT = "gguf"
"""The format that is meant where none is named."""


def names() -> tuple[str, ...]:
    """Names of every format that can be written; imports nothing."""
    return plugins.names(__name__, "FORMAT")


def get(name: str) -> Format:
    """The format of that name; raises UnsupportedError naming the known ones."""
    return plugins.load(__name__, name, "FORMAT")


def runnable() -> tuple[str, ...]:
    """Names of the formats whose artefacts a runtime runs, the default one first."""
    able = [name for name in names() if get(name).runs]
    return tuple(sorted(able, key=lambda name: (name != DEFAULT, name)))


def of(path: str | Path) -> Format:
    """The format of the artefact at `path`; raises FormatError for none."""
    if format := recognize(path):
        return format
    raise FormatError(
        f"{path} is no model in a known format",
        expected=", ".join(get(name).title for name in names()),
    )


def recognize(path: str | Path) -> Format | None:
    """The format of the file or folder at `path`; None where it is of none.

    Formats that something runs are asked first: their folders may hold safetensors, too.
    """
    known = sorted(map(get, names()), key=lambda format: not format.runs)
    return next((format for format in known if format.opens(Path(path))), None)


def qualified(format: str, preset: str) -> str:
    """A preset as the command line names it, `onnx:int4`; those of GGUF have no prefix."""
    return preset if format == DEFAULT else f"{format}:{preset}"


def parse_preset(format: str | None, preset: str | None) -> tuple[str, str | None]:
    """The format and the preset's name in it: `mlx:q4` is q4 of mlx.

    Raises UsageError for a contradiction.
    """
    prefix, colon, name = (preset or "").partition(":")
    if not colon:
        return format or DEFAULT, preset
    if prefix not in names():
        raise UsageError(
            f"the preset {preset} is of no known format",
            expected="a name such as Q4_K_M, or one after " + ", ".join(f"{n}:" for n in names()),
        )
    if format is not None and format != prefix:
        raise UsageError(
            f"the preset {preset} is not one of {format}", expected=f"--format {prefix}"
        )
    return prefix, name


def check_inside(path: Path) -> Path:
    """The path itself; raises FormatError when something of it lies outside its folder.

    Neither a link nor a name in one of its files may lead elsewhere.
    """
    folder_files.check(path)
    if path.is_dir() and (format := recognize(path)) is not None and format.check_names:
        format.check_names(path)
    return path
