"""MLX's affine groups.

Codes with a scale and a bias per 32, 64 or 128 values, value = scale * code + bias.

Scales and biases are bfloat16 in `affine4g64`, float16 in `affine4g64_f16`, float32 in
`affine4g64_f32`. `nearest` gives the bytes of mx.quantize (mlx/ops.cpp), `search` a weighted
least-squares fit that is never worse.
"""

from __future__ import annotations

import re

from kanna.encodings import _core
from kanna.encodings.affine_codes import BITS, GROUPS
from kanna.encodings.base import Encoding, Plane
from kanna.errors import UnsupportedError

NUMBERS = {"bf16": 2, "f16": 2, "f32": 4}
"""Types of scales and biases, and bytes of one."""


def name_of(bits: int, group: int, number: str) -> str:
    """Name of the encoding of `bits` in groups of `group` with scales of type `number`."""
    return f"affine{bits}g{group}" + ("" if number == "bf16" else f"_{number}")


_NAME = re.compile(r"affine(\d+)g(\d+)(_\w+)?")


def parse(name: str) -> None:
    """UnsupportedError for the name of a width, group or type that this kind has not.

    Nothing for other names.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return
    problem: tuple[object, ...] = ()
    if int(match[1]) not in BITS:
        problem = (f"codes of {match[1]} bits", BITS)
    elif int(match[2]) not in GROUPS:
        problem = (f"groups of {match[2]} values", GROUPS)
    elif match[3]:
        problem = (f"scales of type {match[3][1:]}", NUMBERS)
    if problem:
        what, known = problem
        raise UnsupportedError(
            f"MLX has no {what} in its affine mode", expected=", ".join(map(str, known))
        )


def _encoding(bits: int, group: int, number: str) -> Encoding:
    codes, size = group * bits // 8, NUMBERS[number]
    return Encoding(
        name=name_of(bits, group, number),
        summary="MLX's affine groups: codes with a scale and a bias per group",
        label=f"affine {bits} bits g{group} {number}",
        block=group,
        block_bytes=codes + 2 * size,
        encoder=_core.encode,
        decoder=_core.decode,
        planes=(
            Plane(name="weight", dtype="u32", bytes=codes),
            Plane(name="scales", dtype=number, bytes=size),
            Plane(name="biases", dtype=number, bytes=size),
        ),
        settings={"group_size": group, "bits": bits, "mode": "affine"},
    )


ENCODINGS = tuple(_encoding(b, g, n) for n in NUMBERS for b in BITS for g in GROUPS)
