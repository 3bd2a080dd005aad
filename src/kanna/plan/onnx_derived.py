"""Presets of ONNX that are made from the whole float32 graph.

16 bits in storage, and int8 in arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """How matrices are stored once the graph is made.

    Attributes:
        summary: What the preset is for.
        bits: Of a matrix's weight.
        storage: `f16` or `bf16`, or "" for int8.
        calibrator: Of static int8, or "" for dynamic.
        wide: Whether activations have 16 bits.
        full: Whether everything between the nodes has, the cache included: of fixed shapes alone.
    """

    summary: str
    bits: int
    storage: str = ""
    calibrator: str = ""
    wide: bool = False
    full: bool = False

    @property
    def int8(self) -> bool:
        """Whether the graph multiplies whole numbers."""
        return not self.storage

    @property
    def facts(self) -> dict[str, object]:
        """What is to be known of it, by name."""
        facts: dict[str, object] = {
            "bits": self.bits,
            "storage": self.storage,
            "calibrator": self.calibrator,
            "activation_bits": 16 if self.wide else 0,
        }
        return {name: value for name, value in facts.items() if value}


DERIVED = {
    "fp16": Derived(
        summary="matrices stored in float16, computed in float32", bits=16, storage="f16"
    ),
    "bf16": Derived(
        summary="matrices stored in bfloat16, computed in float32", bits=16, storage="bf16"
    ),
    "int8": Derived(
        summary="dynamic int8: activations are rounded over the range they have at that moment",
        bits=8,
    ),
    "w8a8": Derived(
        summary="static int8 (QDQ): ranges from calibration text", bits=8, calibrator="minmax"
    ),
    "w8a16": Derived(
        summary="static QDQ for NPUs: weights of 8 bits per channel, activations of 16",
        bits=8,
        calibrator="minmax",
        wide=True,
    ),
    "w4a16": Derived(
        summary="static QDQ for NPUs: weights of 4 bits per channel, the head and the embedding in"
        " 8, activations of 16",
        bits=4,
        calibrator="minmax",
        wide=True,
    ),
    "w8a16-full": Derived(
        summary="w8a16 with codes between all nodes, cache included, for NPUs without floats; with"
        " --static",
        bits=8,
        calibrator="minmax",
        wide=True,
        full=True,
    ),
    "w4a16-full": Derived(
        summary="w4a16 with codes between all nodes, cache included, for NPUs without floats; with"
        " --static",
        bits=4,
        calibrator="minmax",
        wide=True,
        full=True,
    ),
    "w8a8-percentile": Derived(
        summary="static int8 (QDQ): ranges that hold 99.99 %", bits=8, calibrator="percentile"
    ),
    "w8a8-entropy": Derived(
        summary="static int8 (QDQ): ranges of least divergence", bits=8, calibrator="entropy"
    ),
}
