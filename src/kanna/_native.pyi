"""The native core: block codecs and search kernels."""

from kanna.model import F32, U8

def encode(name: str, x: F32, out: U8, search: bool, weights: F32 | None, weighting: int, threads: int) -> None:
    """Encode float32 [rows, columns] into uint8 [rows, row bytes]; weights float32 [columns] or None."""

def decode(name: str, data: U8, out: F32) -> None:
    """Decode uint8 [rows, row bytes] into float32 [rows, columns]."""

def count_nonfinite(x: F32) -> int:
    """Number of NaN and infinite values of float32 [rows, columns]."""

def simd() -> str:
    """Instruction set in use."""

def simd_available() -> list[str]:
    """Instruction sets this CPU can run, best first."""

def set_simd(isa: str) -> bool:
    """Use another instruction set; False when it is not available."""
