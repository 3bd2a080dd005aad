"""bitsandbytes: NF4 and FP4 in blocks of a flat matrix, as Unsloth saves them, and LLM.int8.

A block's largest magnitude multiplies an entry of a table of 16; with nesting, these magnitudes are
codes themselves, of blocks of 256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from kanna._util.typed import FLAG, TypedObject, listed, number, text, whole
from kanna.errors import FormatError
from kanna.formats.prequantized.groups import setting
from kanna.formats.prequantized.scaled import (
    INT8,
    NUMBERS,
    ScaledCodes,
    check_scales,
    float_type,
    stored_bytes,
    values_of,
)
from kanna.formats.text_files import parse_json
from kanna.model import F32, U8, Tensor

_STATE = ".quant_state.bitsandbytes__"
_KINDS = ("nf4", "fp4")
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_AGAIN = "fetch the weights again, or use the 16-bit release of this model"
_MOST_STATE = 1 << 16


@dataclass(slots=True, kw_only=True)
class Flat:
    """A matrix of 4-bit codes in blocks that run on from row to row.

    Attributes:
        codes: Two to a byte, the upper four bits first.
        table: Value of each code.
        sizes: Largest magnitude of each block, or its code.
        block: Values in a block.
        number: The floating type that the values are meant for.
        nested: How the sizes are coded, where they are.
    """

    name: str
    shape: tuple[int, ...]
    codes: Tensor
    table: F32
    sizes: Tensor
    block: int
    number: str
    nested: Nested | None

    @property
    def dtype(self) -> str:
        """The type that the values are meant for."""
        return self.number

    @property
    def nbytes(self) -> int:
        """Bytes of codes and sizes."""
        return self.codes.nbytes + self.sizes.nbytes

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), decoded, float32 [rows, columns]."""
        columns = self.shape[-1]
        begin, end = start * columns, stop * columns
        data = stored_bytes(self.codes, begin // 2, -(-end // 2))
        codes = np.stack([data >> 4, data & 15], axis=1).reshape(-1)
        codes = codes[begin % 2 : begin % 2 + end - begin]
        first, last = begin // self.block, -(-end // self.block)
        if self.nested is None:
            sizes = values_of(self.sizes, first, last)
        else:
            sizes = self.nested.values(stored_bytes(self.sizes, first, last), first)
        each = np.repeat(sizes, self.block)[begin - first * self.block :][: end - begin]
        return (self.table[codes] * each).reshape(stop - start, columns)

    def raw(self, start: int, stop: int) -> U8 | None:
        """None: no encoding holds these blocks."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """Sizes of blocks as codes: table[code] * scale of its block of them + offset."""

    table: F32
    scales: Tensor
    block: int
    offset: float

    def values(self, codes: U8, start: int) -> F32:
        """Sizes of codes [start, start + len(codes))."""
        first, last = start // self.block, -(-(start + len(codes)) // self.block)
        scales = np.repeat(values_of(self.scales, first, last), self.block)
        each = scales[start - first * self.block :][: len(codes)]
        return self.table[codes] * each + np.float32(self.offset)


def shapes_need_values(settings: TypedObject) -> bool:
    """Of 4 bits: rows and columns are among the values, and no header has them."""
    return not settings.get("load_in_8bit", FLAG, False)


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one of values; each has settings of its own.

    Raises:
        UnsupportedError: A matrix is stored in an unknown way.
        FormatError: The parts of a matrix do not fit together.
        SourceError: The values were not fetched, and with them the shapes.
    """
    number = float_type(tensors.values())
    states = {
        base: tensor
        for name, tensor in tensors.items()
        for base, _, _ in [name.partition(_STATE)]
        if _STATE in name
    }
    decoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole_rows = name.removesuffix(".weight") + ".SCB"
        if name in states:
            decoded[name] = _four_bits(tensor, states[name], tensors)
        elif name.endswith(".weight") and (tensor.dtype == "i8" or whole_rows in tensors):
            decoded[name] = _eight_bits(tensor, tensors.get(whole_rows), number)
        elif not _is_part(name, tensors, states):
            decoded[name] = tensor
    left = next((n for n, t in decoded.items() if n.endswith(".weight") and t.dtype == "u8"), None)
    lost = next((n for n in states if n not in tensors), left)
    if lost is not None:
        raise FormatError(
            f"{lost} is packed, and not all of its parts are here",
            expected=f"{lost}, {lost}.absmax, {lost}.quant_map and {lost}{_STATE}nf4",
            todo=_AGAIN,
        )
    return decoded


def _is_part(name: str, tensors: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> bool:
    if _STATE in name:
        return True
    base, dot, kind = name.rpartition(".")
    if kind in ("SCB", "weight_format"):
        return f"{base}.weight" in tensors
    return base in states and dot + kind in _PARTS


def _four_bits(codes: Tensor, state: Tensor, tensors: Mapping[str, Tensor]) -> Flat:
    if state.nbytes > _MOST_STATE or state.dtype != "u8":
        raise FormatError(f"{state.name} holds {state.nbytes} bytes", expected="a short text")
    try:
        words = stored_bytes(state).tobytes().decode()
    except UnicodeDecodeError:
        raise FormatError(f"{state.name} is no text", expected="JSON", todo=_AGAIN) from None
    about = TypedObject.of(parse_json(words, state.name), state.name)
    setting(about, "quant_type", text(16), _KINDS)
    shape = tuple(about.need("shape", listed(whole(1), 4)))
    block = about.need("blocksize", whole(1, 1 << 20))
    kind = about.need("dtype", text(16))
    count = prod(shape)
    if codes.dtype != "u8" or len(shape) < 2 or codes.nbytes != -(-count // 2):
        raise FormatError(
            f"{codes.name} holds {codes.nbytes} bytes of {codes.dtype}",
            expected=f"{-(-count // 2)} of u8 for {list(shape)}",
            todo=_AGAIN,
        )
    sizes, nested = _part(codes.name, ".absmax", tensors, -(-count // block)), None
    if f"{codes.name}.nested_absmax" in tensors or sizes.dtype == "u8":
        nested = _nested(codes.name, sizes, about, tensors)
    else:
        check_scales(sizes, ("f32",), zero=True)
    return Flat(
        name=codes.name,
        shape=shape,
        codes=codes,
        table=_table(codes.name, ".quant_map", tensors, 16),
        sizes=sizes,
        block=block,
        number={"float32": "f32", "float16": "f16"}.get(kind, "bf16"),
        nested=nested,
    )


def _nested(name: str, sizes: Tensor, about: TypedObject, tensors: Mapping[str, Tensor]) -> Nested:
    block = about.need("nested_blocksize", whole(1, 1 << 20))
    scales = _part(name, ".nested_absmax", tensors, -(-prod(sizes.shape) // block))
    check_scales(scales, ("f32",), zero=True)
    if sizes.dtype != "u8":
        raise FormatError(f"{sizes.name} holds {sizes.dtype}", expected="u8", todo=_AGAIN)
    return Nested(
        table=_table(name, ".nested_quant_map", tensors, 256),
        scales=scales,
        block=block,
        offset=about.need("nested_offset", number()),
    )


def _part(name: str, end: str, tensors: Mapping[str, Tensor], count: int) -> Tensor:
    part = tensors.get(name + end)
    if part is None or prod(part.shape) != count:
        has = "nothing" if part is None else f"shape {list(part.shape)}"
        raise FormatError(f"{name}{end} has {has}", expected=f"{count} values", todo=_AGAIN)
    return part


def _table(name: str, end: str, tensors: Mapping[str, Tensor], count: int) -> F32:
    part = _part(name, end, tensors, count)
    values = values_of(part, 0, count) if part.dtype in NUMBERS else np.zeros(0, np.float32)
    if not len(values) or not np.isfinite(values).all() or np.abs(values).max() != 1:
        raise FormatError(
            f"{part.name} is no table of {part.dtype} values",
            expected="finite numbers of at most 1",
            todo=_AGAIN,
        )
    return values


def _eight_bits(codes: Tensor, scales: Tensor | None, number: str) -> ScaledCodes:
    """Rows of whole numbers, and the largest magnitude of each."""
    shape = tuple(codes.shape)
    if codes.dtype != "i8" or len(shape) != 2 or scales is None or prod(scales.shape) != shape[0]:
        beside = "no SCB" if scales is None else f"SCB of shape {list(scales.shape)}"
        raise FormatError(
            f"{codes.name} holds {codes.dtype} of shape {list(shape)} with {beside}",
            expected="i8, rows and columns, and as many values of SCB as rows",
            todo=_AGAIN,
        )
    check_scales(scales, ("f32",), zero=True)
    return ScaledCodes(
        name=codes.name,
        shape=shape,
        codes=codes,
        table=INT8,
        scales=scales,
        block=(1, shape[1]),
        number=number,
        factor=7.874015718698502e-3,  # 1 / 127, as the library multiplies by it
    )
