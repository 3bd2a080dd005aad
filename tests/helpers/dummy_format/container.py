"""The record of the format, and what reads its folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kanna.encodings import Encoding
from kanna.errors import FormatError
from kanna.formats.base import FolderContents, Format
from kanna.formats.memory import RuntimeMemory, step_buffers
from kanna.formats.stored import stored
from kanna.formats.stored_file import StoredFile
from kanna.model import Model, Tensor
from kanna.plan import Plan
from kanna.plan.presets import MakePlan, Preset

MARKER, WEIGHTS = "dummy.json", "weights"
ENCODINGS = ("q4_0", "q8_0", "f16")


def preset(name: str, encoding: str, summary: str) -> Preset:
    """A preset that gives every matrix one encoding."""

    def make(*_: object) -> Plan:
        return Plan(name=f"dummy:{name}", encoding=encoding)

    plan: MakePlan = make
    return Preset(name=name, summary=summary, make=plan)


PRESETS = {
    "q4": preset("q4", "q4_0", "4 bits"),
    "q8": preset("q8", "q8_0", "8 bits"),
    "f16": preset("f16", "f16", "every weight in float16"),
}


def _opens(path: Path) -> bool:
    return (path / MARKER).is_file()


def _carries(encoding: Encoding) -> bool:
    return encoding.name in ENCODINGS


def _value_bytes(_: Model) -> int:
    return 4


def _contents(path: Path) -> FolderContents:
    header: dict[str, dict[str, Any]] = json.loads((path / MARKER).read_text())
    tensors: dict[str, Tensor] = {}
    paths: list[Path] = []
    for name, entry in header.items():
        paths.append(path / WEIGHTS / f"{name}.npy")
        try:
            array = np.load(paths[-1], mmap_mode="r")
        except (OSError, ValueError) as error:
            raise FormatError(f"{paths[-1]} cannot be read: {error}") from error
        data = StoredFile(paths[-1]).part(array.offset, array.offset + array.nbytes)
        tensors[name] = stored(name, tuple(entry["shape"]), entry["encoding"], data)
    return FolderContents(tensors=tensors, weight_files=paths)


FORMAT = Format(
    name="dummy",
    title="Dummy",
    opens=_opens,
    carries=_carries,
    runtime="dummy",
    runtime_title="the dummy",
    presets=PRESETS,
    default_preset="q8",
    compared_presets=("q8", "q4"),
    whole_presets={"bf16": "f16", "f16": "f16"},
    memory=RuntimeMemory(value_bytes=_value_bytes, buffers=step_buffers(_value_bytes)),
    contents=_contents,
    keeps_provenance=True,
)
