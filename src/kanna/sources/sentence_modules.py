"""modules.json: the steps from a text to a vector, as sentence-transformers saves them.

A model's folder has one for its transformer, and folders inside it for what comes after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kanna._util.typed import TypedObject, text
from kanna.errors import FormatError
from kanna.formats import folder_files, safetensors
from kanna.formats.text_files import read_json
from kanna.model import Tensor

NAME = "modules.json"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MOST = 32
_TEXT = text(255)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStep:
    """One step.

    Attributes:
        kind: Its class, without the package.
        folder: Where its files are inside the model's folder; "": beside the model's.
    """

    kind: str
    folder: str


def read(path: Path) -> list[VectorStep]:
    """The steps in a modules.json, in order.

    Raises:
        FormatError: It is no list of steps, or one lies outside the folder.
    """
    value = read_json(path)
    if not isinstance(value, list) or len(value) > _MOST:
        raise FormatError(
            f"{NAME} is not a list of steps",
            expected='[{"type": …, "path": …}]',
            todo="fetch it again",
        )
    steps: list[VectorStep] = []
    for item in value:
        part = TypedObject.of(item, NAME)
        folder = part.get("path", _TEXT, "").rstrip("/")
        if folder and not folder_files.is_inside_name(folder):
            raise FormatError(
                f"{NAME} names the folder {folder!r:.80}", expected="a folder inside the model's"
            )
        steps.append(VectorStep(kind=part.need("type", _TEXT).rpartition(".")[2], folder=folder))
    return steps


def with_steps(folder: Path, beside: Mapping[str, Path]) -> dict[str, Path]:
    """The files of a model by name, with what its steps are described in and weighted by.

    Args:
        folder: The model's folder.
        beside: The files in it.
    """
    if NAME not in beside:
        return dict(beside)
    named = [
        f"{step.folder}/{name}"
        for step in read(beside[NAME])
        if step.folder
        for name in (CONFIG, WEIGHTS)
    ]
    there = {n: folder_files.inside(folder, folder / n) for n in named if (folder / n).is_file()}
    return {**beside, **there}


def tensors(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Tensors of the steps after a model, by the folder of each and its own name: `2_Dense.…`.

    Args:
        files: Of the model, as `with_steps` gives them.
    """
    steps: dict[str, Tensor] = {}
    for name, path in files.items():
        folder, _, file = name.rpartition("/")
        if folder and file == WEIGHTS:
            for own, tensor in safetensors.read_file(path).items():
                steps[f"{folder}.{own}"] = tensor
    return steps
