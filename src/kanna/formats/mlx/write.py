"""Write a folder for mlx-lm: packed matrices, and config.json with the settings of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna.formats import safetensors
from kanna.formats.safetensors.write import SHARD_BYTES
from kanna.formats.stream import WriteResult
from kanna.model import num_weights
from kanna.plan.types import TensorPlan

_OURS = ("quantization", "quantization_config", "_name_or_path", "vision_config")


def settings(tensors: Sequence[TensorPlan]) -> dict[str, Any]:
    """`quantization` of config.json as mlx-lm writes it.

    What most weights have, then each matrix that differs; empty where nothing is quantized.
    """
    kinds: dict[str, Mapping[str, str | int]] = {}
    sizes: Counter[str] = Counter()
    for entry in tensors:
        if entry.encoding.settings:
            key = json.dumps(dict(entry.encoding.settings))
            kinds[key] = entry.encoding.settings
            sizes[key] += num_weights(entry.tensor)
    if not kinds:
        return {}
    usual = kinds[max(kinds, key=lambda key: sizes[key])]
    differing = {
        entry.name.removesuffix(".weight"): dict(entry.encoding.settings)
        for entry in tensors
        if entry.encoding.settings and entry.encoding.settings != usual
    }
    return {**usual, **differing}


def weight_bytes(tensors: Sequence[TensorPlan], shard_bytes: int | None) -> int:
    """Bytes of the weight files, to the byte."""
    return safetensors.folder_bytes(tensors, shard_bytes or SHARD_BYTES, "mlx")


def write_folder(
    folder: Path | str,
    *,
    tensors: Sequence[TensorPlan],
    config: Mapping[str, Any],
    files: Mapping[str, bytes],
    threads: int,
    progress: Progress,
    shard_bytes: int | None,
    overwrite: bool,
    nonfinite: str,
    late: Callable[[], object] | None = None,
) -> WriteResult:
    """Stream tensors to `folder`, with config.json and other files beside them.

    Args:
        folder: The folder to write.
        tensors: What becomes of each tensor, in the order of their data.
        config: config.json, to which the settings of quantization are added.
        files: Contents of the other files, by name.
        threads: Row blocks that are encoded at once.
        progress: Where progress is reported.
        shard_bytes: Bytes of a weight file at most; None: `safetensors.SHARD_BYTES`.
        overwrite: Whether a folder that holds something may be written to.
        nonfinite: `refuse` raises EncodingError at the first NaN or infinity, `zero` stores zeros.
        late: Called when weights are written, before a file has its name; it raises to refuse.
    """
    whole = {k: v for k, v in config.items() if k not in _OURS}
    if quantization := settings(tensors):
        # Twice, as mlx-lm does: the second is the key that a hub looks for.
        whole |= {"quantization": quantization, "quantization_config": quantization}
    return safetensors.write_folder(
        folder,
        tensors=tensors,
        files={
            **files,
            "config.json": (json.dumps(dict(sorted(whole.items())), indent=4) + "\n").encode(),
        },
        threads=threads,
        progress=progress,
        shard_bytes=shard_bytes or SHARD_BYTES,
        overwrite=overwrite,
        nonfinite=nonfinite,
        maker="mlx",
        late=late,
    )
