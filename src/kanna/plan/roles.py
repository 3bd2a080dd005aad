"""What a tensor is for, by its GGUF name, and whether it may be quantized at all."""

from __future__ import annotations

import re

from kanna import encodings
from kanna.model import Model, Tensor

LAYER = re.compile(r"blk\.(\d+)\.")
# First match wins; the order is llama.cpp's, whose mixes are defined over these roles.
_ROLES = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)
# Small tensors whose loss of precision costs more than their bytes (the list is llama.cpp's).
_KEPT = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "ssm_alpha",  # llama.cpp rounds these two, and what a delta net remembers goes with them
    "ssm_beta",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_KEPT_NAMES = {"position_embd.weight", "token_types.weight"}
FLOATS = {"f16", "bf16", "f32", "f64"}


def role(name: str, *, tied: bool) -> str:
    """`output`, `embedding`, `attn_q` … or `other`; a tied embedding is the output."""
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "output" if tied else "embedding"
    return next((purpose for part, purpose in _ROLES if part in name), "other")


def layer(name: str) -> int | None:
    """Number of the layer a tensor belongs to."""
    match = LAYER.match(name)
    return int(match[1]) if match else None


def order(name: str) -> tuple[int, str]:
    """Sort key: layer by layer, as llama.cpp counts."""
    number = layer(name)
    return (-1 if number is None else number, name)


def is_vector(tensor: Tensor) -> bool:
    """Whether a tensor has one row: a norm, a bias, factors of rotations."""
    return sum(1 for n in tensor.shape[:-1] if n > 1) == 0


def quantizable(tensor: Tensor) -> bool:
    """Whether a plan may choose the encoding of this tensor; the others keep full precision."""
    if is_vector(tensor):
        return False
    name = tensor.name
    return (
        name.endswith("weight")
        and name not in _KEPT_NAMES
        and not any(part in name for part in _KEPT)
    )


def drafts(model: Model, name: str) -> bool:
    """Whether a tensor is of a head for further tokens, which plain text does not run through."""
    match = LAYER.match(name)
    heads = model.meta("{arch}.nextn_predict_layers", 0)
    if match is None or not heads:
        return False
    return int(match[1]) >= model.whole("{arch}.block_count", least=1) - int(heads)


def kept(model: Model, tensor: Tensor) -> str:
    """Encoding of a tensor that no plan may touch: its own, or float32 from a checkpoint."""
    if tensor.dtype in FLOATS and (model.config or len(tensor.shape) == 1):
        return "f32"
    if encodings.get(tensor.dtype).ggml_type is None:  # of MLX, and no GGUF holds it
        return "f32"
    return tensor.dtype


def in_more_bits(layer: int, count: int) -> bool:
    """Whether a layer is in the first or last eighth of `count`, or every third between them.

    llama.cpp's rule (`use_more_bits`), which mlx-lm and our presets of ONNX follow.
    """
    eighth = count // 8
    return layer < eighth or layer >= 7 * count // 8 or (layer - eighth) % 3 == 2
