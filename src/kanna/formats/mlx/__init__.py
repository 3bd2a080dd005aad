"""MLX folders: safetensors with packed codes, scales and biases, and settings in config.json."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from kanna import encodings
from kanna._util import extras
from kanna.encodings import Encoding
from kanna.encodings.grouped.affine import NUMBERS
from kanna.formats.base import Format, StoredWeights
from kanna.formats.memory import RuntimeMemory, step_buffers
from kanna.formats.mlx import layout
from kanna.formats.mlx.read import as_published, is_folder, is_mlx, unpacked
from kanna.formats.mlx.write import settings, weight_bytes, write_folder
from kanna.formats.process_memory import ProcessMemory, tokenizer_bytes
from kanna.formats.safetensors import read_folder
from kanna.model import Model
from kanna.plan import mlx as presets

__all__ = [
    "FORMAT",
    "as_published",
    "is_folder",
    "is_mlx",
    "layout",
    "settings",
    "unpacked",
    "weight_bytes",
    "write_folder",
]

# Bytes of a value of the floating types.
_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
ON_CPU = sys.platform != "darwin"
"""Whether mlx computes on a CPU, where kanna's engine has it compute in float32."""
# What its process holds for any model, and for each layer, see formats/process_memory.py.
_FIXED, _LAYER = 6_500_000, 1_050_000
# What scale and bias of a group grow by there, from 16 bits each.
_WIDER_SCALES = 4


def _opens(path: Path) -> bool:
    return path.is_dir() and is_folder(path)


def _carries(encoding: Encoding) -> bool:
    return bool(encoding.settings) or encoding.name in NUMBERS


def _value_bytes(model: Model) -> int:
    return 4 if ON_CPU else _VALUE_BYTES[presets.float_type(model)]


def _copied(_name: str, encoding: str, size: int) -> float:
    """On a CPU every floating number is float32, scales and biases of codes among them."""
    if not ON_CPU:
        return 0.0
    kind = encodings.get(encoding)
    if kind.block == 1:
        return float(size) * (4 / kind.block_bytes - 1)
    return _WIDER_SCALES * size / kind.block_bytes if kind.settings else 0.0


def _weights(path: Path) -> StoredWeights:
    sizes: dict[str, int] = {}
    tensors = read_folder(path)
    for name, tensor in tensors.items():
        # Scales in single precision make no code finer.
        wide = tensor.dtype == "f32" and name.endswith((".scales", ".biases"))
        sizes[name] = tensor.nbytes // 2 if wide else tensor.nbytes
    # mlx computes in the type of norms and scales.
    half = any(t.dtype == "f16" for n, t in tensors.items() if n.endswith("norm.weight"))
    return StoredWeights(sizes=sizes, nbytes=sum(sizes.values()), half_activations=half)


FORMAT = Format(
    name="mlx",
    title="MLX",
    opens=_opens,
    carries=_carries,
    runtime="mlx",
    runtime_title="mlx-lm",
    build=partial(extras.installed, "mlx", "mlx-lm"),
    presets=presets.PRESETS,
    default_preset=presets.DEFAULT,
    compared_presets=("q8", "mixed", "q4"),
    whole_presets={"bf16": "bf16", "f16": "f16"},
    exact_preset="exact",
    memory=RuntimeMemory(
        value_bytes=_value_bytes,
        buffers=step_buffers(_value_bytes),
        process=ProcessMemory(
            fixed=_FIXED, layer=_LAYER, tokenizer=tokenizer_bytes, copied=_copied
        ),
    ),
    weights=_weights,
    keeps_provenance=True,
    symbol=((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
)
