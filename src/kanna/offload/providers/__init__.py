"""Verified placement in onnxruntime: which nodes an execution provider computes, and rightly.

`prove` runs a folder on the provider and on the CPU, each in a process of its own (`worker.py`),
where the provider can be loaded here; elsewhere its table of operators decides.
"""

from kanna.offload.providers.proof import (
    PlacementProof,
    prove,
    require,
    require_folder,
    variables,
)

__all__ = ["PlacementProof", "prove", "require", "require_folder", "variables"]
