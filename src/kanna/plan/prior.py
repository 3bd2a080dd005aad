"""Importance of columns guessed from the weights alone, for when no text was run through the model.

What a matrix reads is known in part without any text. After a norm, column j has about the power of
its gain, γ_j². Behind the values of attention, it has the power that the rows of attn_v give, ‖v_j
γ‖²; behind the gate of a feed-forward block, the product of what gate and up give. A column that
carries much is worth precision.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np

from kanna import _native
from kanna.model import F32, Model, Tensor, columns, num_rows

_BLOCK = 1 << 17
_NORMS = {
    "attn_q": "attn_norm",
    "attn_k": "attn_norm",
    "attn_v": "attn_norm",
    "attn_qkv": "attn_norm",
    "ffn_gate": "ffn_norm",
    "ffn_up": "ffn_norm",
    "ffn_gate_exps": "ffn_norm",
    "ffn_up_exps": "ffn_norm",
}


class Prior:
    """Guessed weights float32 [columns], or [experts, columns], computed when first asked for."""

    def __init__(self, compute: Callable[[], F32]) -> None:
        self._compute, self._lock, self._weights = compute, Lock(), None

    def weights(self) -> F32:
        """The weights, at most 1; safe to call from several threads."""
        with self._lock:
            if self._weights is None:
                powers = np.nan_to_num(self._compute(), nan=0.0, posinf=0.0, neginf=0.0)
                self._weights = (powers / max(float(powers.max()), 1e-30)).astype(np.float32)
            return self._weights


def prior_of(model: Model, name: str) -> Prior | None:
    """The guess for a tensor of `model`, or None where the architecture gives no ground for one."""
    tensors = model.tensors
    layer, _, part = name.removesuffix(".weight").rpartition(".")
    before = f"{layer}." if layer else ""

    def tensor(which: str) -> Tensor | None:
        sibling = tensors.get(f"{before}{which}.weight")
        axes = (3,) if which.endswith("_exps") else (0, 1, 2)
        return sibling if sibling is not None and len(sibling.shape) in axes else None

    target = tensors[name]
    if len(target.shape) != (3 if part.endswith("_exps") else 2):
        return None
    norm = tensor(_NORMS.get(part, "")) if layer else None
    if part == "output" or (part == "token_embd" and "output.weight" not in tensors):
        norm = tensor("output_norm")
    if norm is not None:
        return Prior(lambda: _gain(norm)) if columns(norm) == columns(target) else None
    if part == "attn_output":
        return _behind_values(model, tensor, target)
    if part == "ffn_down":
        return _behind_gate(tensor, target)
    if part == "ffn_down_exps":
        return _behind_gates(tensor, target)
    return None


def _gain(norm: Tensor) -> F32:
    return np.square(norm.rows(0, 1)[0])


def _powers(tensor: Tensor, norm: Tensor, first: int, last: int) -> F32:
    """Σ_c (x_rc γ_c)² of rows [first, last), float32."""
    gain = np.require(_gain(norm), requirements=["C", "A"])
    out = np.empty(last - first, np.float32)
    step = max(1, _BLOCK // columns(tensor))
    for start in range(first, last, step):
        stop = min(start + step, last)
        _native.row_powers(
            np.require(tensor.rows(start, stop), requirements=["C", "A"]),
            gain,
            out[start - first : stop - first],
        )
    return out


def _behind_values(
    model: Model, tensor: Callable[[str], Tensor | None], target: Tensor
) -> Prior | None:
    norm, values, fused = tensor("attn_norm"), tensor("attn_v"), tensor("attn_qkv")
    heads, kv_heads = (model.meta(f"{{arch}}.attention.head_count{end}") for end in ("", "_kv"))
    matrix = values if values is not None else fused
    if (
        norm is None
        or matrix is None
        or not isinstance(heads, int)
        or not isinstance(kv_heads, int)
    ):
        return None
    head_dim = columns(target) // heads
    rows = num_rows(matrix)
    first = rows - kv_heads * head_dim  # of q, k and v in one matrix, the values come last
    if (
        columns(norm) != columns(matrix)
        or heads * head_dim != columns(target)
        or heads % kv_heads
        or first < 0
    ):
        return None

    def compute() -> F32:
        powers = _powers(matrix, norm, first, rows).reshape(kv_heads, 1, head_dim)
        return np.repeat(powers, heads // kv_heads, axis=1).ravel()

    return Prior(compute)


def _behind_gate(tensor: Callable[[str], Tensor | None], target: Tensor) -> Prior | None:
    norm, gate, up = tensor("ffn_norm"), tensor("ffn_gate"), tensor("ffn_up")
    if norm is None or up is None or columns(norm) != columns(up):
        return None
    width = columns(target)
    # Gate and up in one matrix: the gate comes first.
    if gate is None and num_rows(up) == 2 * width:
        return Prior(lambda: _powers(up, norm, 0, width) * _powers(up, norm, width, 2 * width))
    if gate is None or num_rows(gate) != width or num_rows(up) != width:
        return None
    return Prior(lambda: _powers(gate, norm, 0, width) * _powers(up, norm, 0, width))


def _behind_gates(tensor: Callable[[str], Tensor | None], target: Tensor) -> Prior | None:
    """The same for each expert of a stack."""
    norm, gate, up = tensor("ffn_norm"), tensor("ffn_gate_exps"), tensor("ffn_up_exps")
    if norm is None or gate is None or up is None:
        return None
    experts, _, width = target.shape
    if {gate.shape, up.shape} != {(experts, width, columns(norm))}:
        return None
    rows = experts * width
    return Prior(
        lambda: (_powers(gate, norm, 0, rows) * _powers(up, norm, 0, rows)).reshape(experts, width)
    )
