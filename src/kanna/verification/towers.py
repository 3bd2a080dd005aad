"""A vision tower as it lies in an mmproj, against the checkpoint's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanna._util.progress import Progress
from kanna.checks import Check, verdict
from kanna.errors import KannaError, MissingError
from kanna.evaluation.reference import reference_gguf
from kanna.families import towers
from kanna.families.towers import pairing
from kanna.formats import gguf
from kanna.runtimes import sight
from kanna.sources import Source
from kanna.verification import tensors

_PREFIX = "clip."
_READS = "a picture in llama.cpp"


def is_mmproj(artefact: Path) -> bool:
    """Whether a file is a vision tower alone."""
    if not artefact.is_file() or not gguf.is_gguf(artefact):
        return False
    try:
        return gguf.read(artefact).value("general.architecture") == towers.ARCH
    except KannaError:
        return False


def pair_checks(
    source: Source, text: Path, mmproj: Path, threads: int, progress: Progress
) -> list[Check]:
    """The checks of a tower, with the model of text that it lies beside.

    Args:
        source: The checkpoint of both.
        text: The GGUF of the text.
        mmproj: The GGUF of the tower.
        threads: Threads to use.
        progress: Where progress is reported.

    Raises:
        UnsupportedError: The checkpoint has no tower that is known here.
    """
    try:
        pairing.check_pair(text, mmproj)
    except KannaError as error:
        return [Check(name="tower: belongs to the model", ok=False, detail=error.found)]
    made = check(source, mmproj, threads, progress, text=text)
    return [replace(one, name=f"tower: {one.name}") for one in made]


def check(
    source: Source,
    artefact: Path,
    threads: int,
    progress: Progress,
    *,
    text: Path | None = None,
) -> list[Check]:
    """Tensors present, their values, the numbers of the tower, and that llama.cpp reads a picture.

    Args:
        source: The checkpoint.
        artefact: The mmproj.
        threads: Threads to use.
        progress: Where progress is reported.
        text: The GGUF of the text that it lies beside; None: the checkpoint's, in float32.

    Raises:
        UnsupportedError: The checkpoint has no tower that is known here.
    """
    expected = towers.load(source).model
    file = gguf.read(artefact)
    checks = tensors.check(expected.tensors, file.tensors, progress)
    keys = [key for key in expected.metadata if key.startswith(_PREFIX)]
    differing = [
        f"{key} is {file.value(key, 'absent')}, not {expected.metadata[key].value}"
        for key in keys
        if not _same(file.value(key), expected.metadata[key].value)
    ]
    detail = "; ".join(differing[:5]) or f"{len(keys)} keys equal"
    checks.append(Check(name="settings of pictures", ok=not differing, detail=detail))
    if any(not one.ok for one in checks):
        return checks
    side = int(expected.metadata["clip.vision.image_size"].value)
    try:
        beside = text or reference_gguf(source.path, progress=progress)
    except KannaError as error:
        return [*checks, Check(name=_READS, ok=verdict(error), detail=error.found)]
    return [*checks, _reads(beside, artefact, side, threads)]


def _reads(text: Path, artefact: Path, side: int, threads: int) -> Check:
    """Whether llama.cpp reads a picture with the tower, beside a model of text."""
    try:
        rows = sight.see(text, artefact, _gradient(side), threads=threads).embeddings
    except MissingError as error:
        return Check(name=_READS, ok=None, detail=f"{error.found}: {error.todo}")
    except KannaError as error:
        return Check(name=_READS, ok=False, detail=error.found)
    sound = bool(np.isfinite(rows).all()) and float(rows.std()) > 0
    detail = f"{len(rows)} tokens of {rows.shape[1]} values" + (
        "" if sound else ", which are all the same or not finite"
    )
    return Check(name=_READS, ok=sound, detail=detail)


def _gradient(side: int) -> NDArray[np.uint8]:
    """A picture whose colours go from one side to the other: u8 [side, side, 3]."""
    steps = np.linspace(0, 255, side).astype(np.uint8)
    across = np.broadcast_to(steps, (side, side))
    return np.stack([across, across.T, across[::-1, ::-1]], axis=2)


def _same(given: object, expected: object) -> bool:
    """Whether two values of a key are the same, as single precision has them."""
    if isinstance(expected, list):
        values = list(given) if hasattr(given, "__iter__") else []  # pyright: ignore
        return len(values) == len(expected) and all(map(_same, values, expected))
    if isinstance(expected, float) and isinstance(given, float):
        return abs(given - expected) <= 1e-6 * max(1.0, abs(expected))
    return bool(given == expected)
