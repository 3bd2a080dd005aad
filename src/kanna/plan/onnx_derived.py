"""Presets of ONNX that are made from the whole float32 graph.

16 bits in storage, and int8 in arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """use: one line; bits: of a matrix's weight.

    Attributes:
        storage: `f16` or `bf16`, or "" for int8.
        calibrator: Of static int8, or "" for dynamic.
    """

    use: str
    bits: int
    storage: str = ""
    calibrator: str = ""

    @property
    def int8(self) -> bool:
        return not self.storage


PRESETS = {
    "fp16": Derived(use="matrices stored in float16, computed in float32", bits=16, storage="f16"),
    "bf16": Derived(
        use="matrices stored in bfloat16, computed in float32", bits=16, storage="bf16"
    ),
    "int8": Derived(
        use="dynamic int8: activations are rounded over the range they have at that moment", bits=8
    ),
    "w8a8": Derived(
        use="static int8 (QDQ): ranges from calibration text", bits=8, calibrator="minmax"
    ),
    "w8a8-percentile": Derived(
        use="static int8 (QDQ): ranges that hold 99.99 %", bits=8, calibrator="percentile"
    ),
    "w8a8-entropy": Derived(
        use="static int8 (QDQ): ranges of least divergence", bits=8, calibrator="entropy"
    ),
}
