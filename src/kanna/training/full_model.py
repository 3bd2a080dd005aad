"""The folder of a model that was trained in full: its base's, with the weights that were trained.

Libraries save weights in float32, as they were trained; they are written in the type of the base.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from kanna import conversion
from kanna._util import own_files
from kanna.conversion import ConversionRequest, WriteOptions
from kanna.families import text_name
from kanna.formats import safetensors
from kanna.formats.base import FLOATS
from kanna.model import F32, U8, Tensor
from kanna.sources import Source

_ONE_FILE = 1 << 60
"""Bytes of a weight file at most: such models are small, and a reader finds the weights in one."""


@dataclass(slots=True)
class Retrained:
    """A tensor of the base with values that were trained, in the type that it had.

    Attributes:
        name: As the base calls it.
        base: The tensor of the base.
        values: What was trained.
    """

    name: str
    base: Tensor
    values: Tensor
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.values.shape, self.base.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values in the type of the base."""
        return self.base.nbytes

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        return self.values.rows(start, stop)

    def raw(self, start: int, stop: int) -> U8 | None:
        """None: the values are rounded to the type of the base as they are written."""
        return None


def write(base: Source, saved: Path, folder: Path, options: WriteOptions) -> None:
    """Write a model as its base was, with the weights that were trained.

    Args:
        base: The base, a folder of Hugging Face with floats.
        saved: The folder that transformers saved, which is removed.
        folder: The folder to write, which exists and is empty.
        options: How it is written.
    """
    try:
        trained = {text_name(n): t for n, t in safetensors.read_folder(saved).items()}
        tensors = {
            name: Retrained(name, tensor, trained[text_name(name)])
            if text_name(name) in trained and tensor.dtype in FLOATS
            else tensor
            for name, tensor in base.tensors.items()
        }
        conversion.convert(
            replace(base, tensors=tensors),
            folder,
            ConversionRequest(split_max_size=_ONE_FILE),
            format=safetensors.FORMAT.name,
            options=options,
        )
    finally:
        own_files.remove(saved)
