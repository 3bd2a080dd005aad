"""SigLIP, the vision transformer of several towers: its names and shapes."""

from __future__ import annotations

from kanna._util.typed import number, whole
from kanna.families.towers.base import Metadata, Shape, TowerConfig
from kanna.model import boolean, f32

_LAYER = "encoder.layers.{}."
_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
}
NAMES: dict[str, str] = {
    "embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "embeddings.patch_embedding.bias": "v.patch_embd.bias",
    "embeddings.position_embedding.weight": "v.position_embd.weight",
    **{
        f"{_LAYER}{module}.{kind}": f"v.blk.{{}}.{part}.{kind}"
        for module, part in _MODULES.items()
        for kind in ("weight", "bias")
    },
    "post_layernorm.weight": "v.post_ln.weight",
    "post_layernorm.bias": "v.post_ln.bias",
}
_MATRICES: dict[str, Shape] = {
    "attn_q": ("hidden", "hidden"),
    "attn_k": ("hidden", "hidden"),
    "attn_v": ("hidden", "hidden"),
    "attn_out": ("hidden", "hidden"),
    "ffn_up": ("ff", "hidden"),
    "ffn_down": ("hidden", "ff"),
    "ln1": ("hidden",),
    "ln2": ("hidden",),
}
SHAPES: dict[str, Shape] = {
    "v.patch_embd.weight": ("hidden", "channels", "patch", "patch"),
    "v.patch_embd.bias": ("hidden",),
    "v.position_embd.weight": ("positions", "hidden"),
    **{f"v.blk.{{}}.{part}.weight": shape for part, shape in _MATRICES.items()},
    **{f"v.blk.{{}}.{part}.bias": shape[:1] for part, shape in _MATRICES.items()},
    "v.post_ln.weight": ("hidden",),
    "v.post_ln.bias": ("hidden",),
}
WHOLE = {"v.patch_embd.weight": "f32", "v.position_embd.weight": "f32"}
"""Where a picture enters, every later number depends on these; they are small."""
FIXED = {"hidden_act": ("gelu_pytorch_tanh", "gelu_new"), "num_channels": (3,)}
"""What llama.cpp computes: GELU by its tanh, of three colours."""
_SIZE = whole(1, 1 << 16)


def side(c: TowerConfig) -> int:
    """Patches of a side of the picture."""
    return c.vision.need("image_size", _SIZE) // c.vision.need("patch_size", _SIZE)


def metadata(c: TowerConfig) -> Metadata:
    """The keys of a tower of this kind."""
    return {
        "clip.use_gelu": boolean(True),
        "clip.vision.attention.layer_norm_epsilon": f32(
            c.vision.get("layer_norm_eps", number(0, 0.9), 1e-6)
        ),
    }
