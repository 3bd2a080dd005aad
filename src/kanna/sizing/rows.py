"""A row of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One preset. Sizes in bytes.

    Memory = weights + cache + buffers; tokens_per_second is an estimate.
    """

    preset: str
    use_case: str
    file_bytes: int
    bits_per_weight: float
    nominal_bits: float
    precision_class: str
    weight_bytes: int
    kv_bytes: int
    buffer_bytes: int
    memory_bytes: int
    tokens_per_second: float
    substitutions: int
    fits: bool
