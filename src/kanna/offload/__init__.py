"""Verified offload: which tensors and operators ran where, and that the device computes right.

`prove` runs a model twice with one llama.cpp, on the device and on the CPU, each in a process of
its own (`worker.py`), and holds what came back to what was asked for (`checks.py`).
"""

from kanna.offload.proof import OffloadProof, prove, require
from kanna.offload.selection import GPU_BACKENDS, select, variables

__all__ = ["GPU_BACKENDS", "OffloadProof", "prove", "require", "select", "variables"]
