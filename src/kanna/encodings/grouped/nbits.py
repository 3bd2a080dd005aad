"""ONNX's MatMulNBits and GatherBlockQuantized; also the groups of OpenVINO.

2-, 4- and 8-bit codes, one scale and one whole zero per group.

value = (code - zero) * scale. nbits4g32: four bits, groups of 32, the zero stored; `s` after the
group: symmetric, the zero is the middle and not stored. Scales are half precision; with `_f32` at
the end, single.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kanna.encodings import _core
from kanna.encodings.base import Encoding
from kanna.errors import UnsupportedError

BITS = (2, 4, 8)
GROUPS = (16, 32, 64, 128, 256)
_NAME = re.compile(r"nbits(\d+)g(\d+)(s?)(_f32)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NBits:
    """The shape of a group.

    Attributes:
        bits: Bits of a code.
        group: Values per scale.
        zero: Whether the zero is stored; else it is the middle code.
        half: Whether scales are half precision; else single.
    """

    bits: int
    group: int
    zero: bool
    half: bool

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of a group."""
        return self.group * self.bits // 8

    @property
    def scale_bytes(self) -> int:
        """Bytes of a scale."""
        return 2 if self.half else 4

    @property
    def block_bytes(self) -> int:
        """A group as kanna holds it.

        Codes, lowest bits first, then the scale, then the zero as a byte.
        """
        return self.code_bytes + self.scale_bytes + self.zero

    def zero_bytes(self, groups: int) -> int:
        """Bytes of the zeros of a row in a file, where they are packed as codes are."""
        return -(-groups * self.bits // 8) if self.zero else 0

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row in a file."""
        groups = cols // self.group
        return groups * (self.code_bytes + self.scale_bytes) + self.zero_bytes(groups)


def parse(name: str) -> NBits | None:
    """What an encoding of this kind is called after, or None for the name of another.

    UnsupportedError: no such width or group.
    """
    match = _NAME.fullmatch(name.lower())
    if match is None:
        return None
    bits, group = int(match[1]), int(match[2])
    if bits not in BITS:
        raise UnsupportedError(
            f"MatMulNBits has no codes of {bits} bits",
            expected=" or ".join(map(str, BITS)),
            todo="nbits4g32, for one",
        )
    if group not in GROUPS:
        raise UnsupportedError(
            f"MatMulNBits of {bits} bits has no groups of {group} values",
            expected=" or ".join(map(str, GROUPS)),
            todo=f"nbits{bits}g32, for one",
        )
    return NBits(bits=bits, group=group, zero=not match[3], half=not match[4])


def _encoding(bits: int, group: int, kind: str, width: str) -> Encoding:
    name = f"nbits{bits}g{group}{kind}{width}"
    shape = NBits(bits=bits, group=group, zero=not kind, half=not width)
    return Encoding(
        name=name,
        summary=(
            "ONNX's MatMulNBits and GatherBlockQuantized: codes with a scale and a zero point "
            "per group"
        ),
        label=name,
        block=group,
        block_bytes=shape.block_bytes,
        encoder=_core.encode,
        decoder=_core.decode,
    )


ENCODINGS = tuple(
    _encoding(bits, group, kind, width)
    for bits in BITS
    for group in GROUPS
    for kind in ("", "s")
    for width in ("", "_f32")
)
