"""What a tuning takes of memory and of the disk."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from kanna import encodings
from kanna._util.disk import folder_size
from kanna._util.units import format_size
from kanna.hardware.memory import memory as machine
from kanna.model import Model, columns, num_rows, num_weights
from kanna.optimization.tuning.head import LOGITS
from kanna.optimization.tuning.learnable import matrices
from kanna.optimization.tuning.learned_values import bytes_of
from kanna.plan.tuning import shifts

_EMBEDDING = "token_embd.weight"
_BY_ROWS = (_EMBEDDING, "output.weight")
"""Matrices of which some rows are in memory at a time."""
_TORCH = 400 << 20
"""Of torch and transformers, before anything runs."""


def bytes_needed(artefact: Model, window: int) -> int:
    """Memory: of one window states, and activations and weights of a layer, or else logits.

    Args:
        artefact: What is tuned.
        window: Tokens of a window.
    """
    layers, tensors = Counter[str](), artefact.tensors
    for name, tensor in tensors.items():
        if name.startswith("blk."):
            layers[name.split(".")[1]] += num_weights(tensor)
    hidden, vocabulary = columns(tensors[_EMBEDDING]), num_rows(tensors[_EMBEDDING])
    feed = artefact.largest("{arch}.feed_forward_length", 4 * hidden)
    heads = artefact.largest("{arch}.attention.head_count", 1)
    largest = max(
        num_weights(t) for t in tensors.values() if len(t.shape) == 2 and t.name not in _BY_ROWS
    )
    states = window * hidden * (len(layers) + 2)
    activations = window * (16 * hidden + 6 * feed + 4 * heads * window)
    logits = 5 * min(LOGITS, window * vocabulary)
    # A factor and its gradient, moments as they are read, and the embedding's rows of a window.
    numbers = (num_rows(tensors[name]) * count for name, count in matrices(artefact).items())
    learned = 5 * max(numbers, default=0)
    of_layer = max(layers.values()) + 3 * largest + activations
    return _TORCH + 4 * (states + learned + max(of_layer, logits))


def disk_needed(artefact: Model, tokens: int, epochs: int) -> int:
    """Disk: what learns with its moments behind every epoch, and the original's hidden states.

    Args:
        artefact: What is tuned.
        tokens: That are read.
        epochs: How often.
    """
    count = 0
    for name, blocks in matrices(artefact).items():
        tensor = artefact.tensors[name]
        count += num_rows(tensor) * blocks * (1 + shifts(encodings.get(tensor.dtype)))
    return epochs * bytes_of(count) + 4 * tokens * columns(artefact.tensors[_EMBEDDING])


def lacking(needed: int, disk: int, folder: Path) -> str:
    """What is not free of memory or of the disk, in words; "" where there is room.

    Args:
        needed: Bytes of memory.
        disk: Bytes of the disk.
        folder: Where they go; what an interrupted run left there counts as free.
    """
    there = next(one for one in (folder, *folder.parents) if one.exists())
    room = {
        "memory": (needed, machine().available),
        f"disk in {there}": (disk, shutil.disk_usage(there).free + folder_size(folder)),
    }
    for what, (wanted, free) in room.items():
        if wanted > free:
            return (
                f"tuning scales takes {format_size(wanted)} of {what}, {format_size(free)} are free"
            )
    return ""
