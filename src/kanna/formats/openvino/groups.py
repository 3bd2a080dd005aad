"""Matrices of codes with scales: how encoded rows and the constants of a graph go together.

codes  [rows, groups, group]: u4 or u8 of nbits, i4 or i8 where these are symmetric, with the zero
       at 0, and nf4
scales f16 [rows, groups, 1]
zeros  as codes, [rows, groups, 1]; of nbits that are not symmetric

With a scale per row, codes are i4 or i8 [rows, columns] and scales [rows, 1]; so is a matrix of one
group a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanna.encodings.grouped import channel, nbits, nf4
from kanna.model import U8

MATRIX_BITS = (4, 8)
"""Bits of codes that OpenVINO multiplies without widening the matrix."""
_SCALE = 2
_MIDDLE = {4: np.uint8(0x88), 8: np.uint8(0x80)}
"""What turns codes around a middle one into two's complement, and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeGroups:
    """The constants of a matrix in one encoding.

    Attributes:
        code: Element type of its codes.
        bits: Of a code.
        group: Values per scale; 0: a row has one scale, which an encoded row begins with.
        zero: Whether zeros are stored.
        middle: Whether encoded rows have codes around a middle one, where the graph has them
            around 0.
    """

    code: str
    bits: int
    group: int
    zero: bool = False
    middle: bool = False

    def count(self, cols: int) -> int:
        """Groups of a row."""
        return cols // self.group if self.group else 1

    def split(self, rows: U8) -> tuple[U8, U8, U8 | None]:
        """Codes, scales and zeros of encoded rows, each uint8 [rows, bytes]; a zero a byte."""
        if not self.group:
            return np.ascontiguousarray(rows[:, _SCALE:]), rows[:, :_SCALE].copy(), None
        size = self.group * self.bits // 8
        blocks = rows.reshape(len(rows), -1, size + _SCALE + self.zero)
        codes, scales = (
            np.ascontiguousarray(part).reshape(len(rows), -1)
            for part in (blocks[:, :, :size], blocks[:, :, size : size + _SCALE])
        )
        if self.middle:
            codes = codes ^ _MIDDLE[self.bits]
        return codes, scales, blocks[:, :, size + _SCALE] if self.zero else None

    def join(self, codes: U8, scales: U8, zeros: U8 | None) -> U8:
        """Encoded rows of their parts, the inverse of `split`."""
        rows = len(codes)
        if not self.group:
            return np.concatenate([scales, codes], axis=1)
        groups = scales.shape[1] // _SCALE
        own = codes ^ _MIDDLE[self.bits] if self.middle else codes
        parts = [own.reshape(rows, groups, -1), scales.reshape(rows, groups, _SCALE)]
        if zeros is not None:
            parts.append(zeros.reshape(rows, groups, 1))
        return np.concatenate(parts, axis=2, dtype=np.uint8).reshape(rows, -1)


def groups_of(name: str) -> CodeGroups | None:
    """How a graph holds matrices of an encoding; None where it cannot."""
    if (group := nf4.parse(name)) is not None:
        return CodeGroups(code="nf4", bits=4, group=group)
    if (row := channel.parse(name)) is not None:
        return CodeGroups(code=f"i{row.bits}", bits=row.bits, group=0) if row.half else None
    kind = nbits.parse(name)
    if kind is None or kind.bits not in MATRIX_BITS or not kind.half:
        return None
    return CodeGroups(
        code=f"{'u' if kind.zero else 'i'}{kind.bits}",
        bits=kind.bits,
        group=kind.group,
        zero=kind.zero,
        middle=not kind.zero,
    )


def named(code: str, group: int) -> str:
    """The encoding of a matrix with codes of that type and so many values a scale; 0: a row's."""
    if code == "nf4":
        return nf4.name_of(group)
    bits = int(code[1:])
    if not group:
        return channel.name_of(bits, half=True)
    return f"nbits{bits}g{group}" + ("s" if code.startswith("i") else "")
