"""What a calibration spools and writes, asked of the disk before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from kanna._util.disk import folder_size
from kanna._util.units import format_size
from kanna.calibration import gradients as backward
from kanna.calibration.second_moments import block_of, block_of_experts
from kanna.calibration.sites import is_stack, sites_of
from kanna.errors import OutputError
from kanna.model import Model, columns


def bytes_needed(model: Model, tokens: int, widest: int, *, gradients: bool = False) -> int:
    """Bytes that lie on the disk at a time: hidden states around a layer, and second moments.

    Args:
        model: The model.
        tokens: That it reads, those held out included.
        widest: Columns up to which a second moment is not cut into blocks.
        gradients: Whether a backward pass comes after, which keeps the states before all layers.
    """
    total = 2 * 4 * tokens * columns(model.tensors["token_embd.weight"])
    if gradients:
        total = max(total, backward.disk_needed(model, tokens))
    for readers in sites_of(model).values():
        tensor = model.tensors[readers[0]]
        width = columns(tensor)
        total += 4 * width * block_of(width, widest)
        if is_stack(tensor.name):
            experts = tensor.shape[0]
            total += 4 * experts * width * block_of_experts(width, widest, experts)
    return total


def check_disk(
    model: Model, tokens: int, widest: int, folder: Path, *, gradients: bool = False
) -> None:
    """Raise OutputError where the disk has too little for a calibration; nothing is written.

    Args:
        model: The model.
        tokens: That it reads.
        widest: As for `bytes_needed`.
        folder: Of the statistics; what lies in it is counted as done.
        gradients: As for `bytes_needed`.
    """
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    needed = bytes_needed(model, tokens, widest, gradients=gradients) - folder_size(folder)
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"{there} has {format_size(free)} free",
            expected=f"{format_size(needed)} for the hidden states that are spooled and the "
            "second moments",
            todo="free some space, name a folder on another disk, or read fewer --tokens",
        )
