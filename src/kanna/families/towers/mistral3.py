"""Pixtral's tower, of Ministral 3 and Mistral Small 3.1: rotary positions, squares merged."""

from __future__ import annotations

from kanna._util.typed import number, whole
from kanna.families.base import Problem
from kanna.families.towers.base import Metadata, Shape, Sizes, Tower, TowerConfig
from kanna.model import boolean, f32, u32

_SIZE = whole(1, 1 << 16)
_LARGEST_MERGE = 16
_THETA, _EPSILON = 10_000.0, 1e-5
_PATCH, _BREAK = "v.patch_embd.weight", "v.token_embd.img_break"
_LAYER = "transformer.layers.{}."
_MODULES: dict[str, tuple[str, Shape]] = {
    "attention.q_proj": ("attn_q", ("hidden", "hidden")),
    "attention.k_proj": ("attn_k", ("hidden", "hidden")),
    "attention.v_proj": ("attn_v", ("hidden", "hidden")),
    "attention.o_proj": ("attn_out", ("hidden", "hidden")),
    "feed_forward.gate_proj": ("ffn_gate", ("ff", "hidden")),
    "feed_forward.up_proj": ("ffn_up", ("ff", "hidden")),
    "feed_forward.down_proj": ("ffn_down", ("hidden", "ff")),
    "attention_norm": ("ln1", ("hidden",)),
    "ffn_norm": ("ln2", ("hidden",)),
}
_PROJECTION: dict[str, tuple[str, Shape]] = {
    "norm": ("mm.input_norm", ("hidden",)),
    "patch_merger.merging_layer": ("mm.patch_merger", ("hidden", "merged")),
    "linear_1": ("mm.1", ("text", "hidden")),
    "linear_2": ("mm.2", ("text", "text")),
}


def _merge(c: TowerConfig) -> int:
    """Patches of a side of the square that becomes one token."""
    return c.whole.get("spatial_merge_size", whole(1, _LARGEST_MERGE), 2)


def _names_of(c: TowerConfig) -> dict[str, str]:
    """Biases of the projector, which no published model has."""
    if c.whole.values.get("multimodal_projector_bias") is not True:
        return {}
    return {f"multi_modal_projector.linear_{n}.bias": f"mm.{n}.bias" for n in (1, 2)}


def _sizes(c: TowerConfig) -> Sizes:
    return {"merged": c.vision.need("hidden_size", _SIZE) * _merge(c) ** 2}


def _metadata(c: TowerConfig) -> Metadata:
    gelu = c.vision.values.get("hidden_act") == "gelu"
    return {
        "clip.use_gelu" if gelu else "clip.use_silu": boolean(True),
        "clip.vision.attention.layer_norm_epsilon": f32(_EPSILON),
        "clip.vision.spatial_merge_size": u32(_merge(c)),
    }


def _checks(c: TowerConfig) -> list[Problem]:
    problems: list[Problem] = []
    size = c.vision.need("hidden_size", _SIZE) // c.vision.need("num_attention_heads", _SIZE)
    if size % 4:
        problems.append(Problem(f"heads of {size} values in the tower", "a multiple of four"))
    given = c.vision.get("head_dim", _SIZE, size)
    if given != size:
        problems.append(
            Problem(f"config.json has vision_config.head_dim = {given}", f"{size}, by its heads")
        )
    old = c.vision.get("rope_theta", number(), _THETA)
    theta = c.vision.part("rope_parameters").get("rope_theta", number(), old)
    if theta != _THETA:
        problems.append(Problem(f"config.json has rope_theta = {theta} in the tower", str(_THETA)))
    epsilon = c.text.get("rms_norm_eps", number(0, 0.9), _EPSILON)
    if epsilon != _EPSILON:
        problems.append(
            Problem(
                f"config.json has rms_norm_eps = {epsilon}, which the projector takes too",
                f"{_EPSILON}, which llama.cpp computes in the tower and after it",
            )
        )
    layer = c.whole.values.get("vision_feature_layer", -1)
    if layer not in (-1, [-1], None):
        problems.append(
            Problem(f"config.json has vision_feature_layer = {layer!r:.40}", "-1, the last layer")
        )
    act = c.whole.values.get("projector_hidden_act", "gelu")
    if act not in ("gelu", None):
        problems.append(Problem(f"config.json has projector_hidden_act = {act!r:.40}", "gelu"))
    return problems


TOWER = Tower(
    projector="pixtral",
    summary="Ministral 3 and Mistral Small 3.1: Pixtral with axial rotary positions, its patches "
    "merged in squares, a token of text after each row",
    architectures=("Mistral3ForConditionalGeneration",),
    owns=(r"(?:model\.)?vision_tower\.", r"(?:model\.)?(?=multi_modal_projector\.)"),
    names={
        "patch_conv.weight": _PATCH,
        "ln_pre.weight": "v.pre_ln.weight",
        **{
            f"{_LAYER}{module}.weight": f"v.blk.{{}}.{part}.weight"
            for module, (part, _) in _MODULES.items()
        },
        **{
            f"multi_modal_projector.{module}.weight": f"{part}.weight"
            for module, (part, _) in _PROJECTION.items()
        },
    },
    names_of=_names_of,
    token_rows={_BREAK: "[IMG_BREAK]"},
    interleaved=frozenset({"v.blk.{}.attn_q.weight", "v.blk.{}.attn_k.weight"}),
    shapes={
        _PATCH: ("hidden", "channels", "patch", "patch"),
        "v.pre_ln.weight": ("hidden",),
        **{f"v.blk.{{}}.{part}.weight": shape for part, shape in _MODULES.values()},
        **{f"{part}.weight": shape for part, shape in _PROJECTION.values()},
        **{f"mm.{n}.bias": ("text",) for n in (1, 2)},
    },
    sizes=_sizes,
    whole={_PATCH: "f32"},
    metadata=_metadata,
    defaults={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 1540,
        "patch_size": 14,
        "hidden_act": "gelu",
    },
    fixed={"hidden_act": ("silu", "swish", "gelu"), "num_channels": (3,)},
    checks=_checks,
)
