"""What the graph of a decoder is built from, read from the metadata of a model and its family."""

from __future__ import annotations

from kanna import families
from kanna.errors import UnsupportedError
from kanna.families import smollm3
from kanna.families.base import Family
from kanna.families.blocks import multipliers
from kanna.formats.memory import windowed_layers
from kanna.formats.openvino.parts import DecoderShape
from kanna.formats.openvino.rotation import rotation, window_rotation
from kanna.model import Model

_EPSILON = "{arch}.attention.layer_norm_rms_epsilon"
_CENTRED = "{arch}.attention.layer_norm_epsilon"
_GEMMA = ("gemma2", "gemma3")
"""Families whose embeddings are multiplied by the root of their width."""


def decoder_shape(model: Model) -> DecoderShape:
    """Sizes and numbers of a model whose family has a graph.

    Raises:
        UnsupportedError: The graph has no place for what a checkpoint of the family does.
    """
    layers = model.whole("{arch}.block_count")
    heads = model.whole("{arch}.attention.head_count", least=1)
    size = families.head_dim_of(model)
    values = model.whole("{arch}.attention.value_length", size)
    if values != size:
        raise UnsupportedError(
            f"its heads have {size} values of keys and {values} of values", expected="as many"
        )
    windows = _windows(model, layers)
    _, family = families.family_of_model(model)
    centred = model.meta(_CENTRED) is not None
    return DecoderShape(
        layers=layers,
        heads=heads,
        kv_heads=model.whole("{arch}.attention.head_count_kv", heads, least=1),
        head_size=size,
        epsilon=float(model.meta(_CENTRED if centred else _EPSILON, 1e-5)),
        rotation=rotation(model, size),
        window_rotation=window_rotation(model, size, _window_base(model)) if windows else None,
        windows=windows,
        unturned=_unturned(model, layers),
        paired=model.family == "ernie4_5",
        norm_offset=family.norm_offset,
        centred=centred,
        gelu=_is_gelu(family),
        scales=_scales(model, size),
        caps=_caps(model),
    )


def _windows(model: Model, layers: int) -> dict[int, int]:
    """Tokens that a layer sees, of those that do not see all."""
    window = model.whole("{arch}.attention.sliding_window", 0)
    seen = {n: window for n, short in enumerate(windowed_layers(model, layers)) if short and window}
    if seen and model.family == "exaone4":
        raise UnsupportedError(
            "some of its layers see a window alone",
            expected="layers that see all tokens",
            todo="write a GGUF instead: --format gguf",
        )
    return seen


def _window_base(model: Model) -> float:
    """The base of angles in layers with a window, which older GGUFs of Gemma 3 do not name."""
    base = model.meta("{arch}.rope.freq_base", 10000.0)
    return float(families.hf_config(model).get("rope_local_base_freq", base))


def _unturned(model: Model, layers: int) -> frozenset[int]:
    if model.family != "smollm3":
        return frozenset()
    return frozenset(range(smollm3.PERIOD - 1, layers, smollm3.PERIOD))


def _is_gelu(family: Family) -> bool:
    """Whether the family's activation is GELU, not SiLU."""
    named = (*family.fixed.get("hidden_activation", ()), *family.fixed.get("hidden_act", ()))
    return any(str(name).startswith("gelu") for name in named)


def _scales(model: Model, head_size: int) -> dict[str, float]:
    """Granite's multipliers, and what Gemma multiplies by, as the graph has them."""
    if model.family == "granite":
        names = multipliers.KEYS.values()
        scale = {name: float(model.meta(f"{{arch}}.{name}", 1.0)) for name in names}
        return {
            "embedding": scale["embedding_scale"],
            "residual": scale["residual_scale"],
            "queries": scale["attention.scale"] * head_size**0.5,
            "logits": 1 / scale["logit_scale"],
        }
    if model.family not in _GEMMA:
        return {}
    scalar = families.hf_config(model)["query_pre_attn_scalar"]
    hidden = model.whole("{arch}.embedding_length", least=1)
    return {"embedding": hidden**0.5, "queries": (head_size / scalar) ** 0.5}


def _caps(model: Model) -> dict[str, float]:
    keys = {"attention": "attn_logit_softcapping", "logits": "final_logit_softcapping"}
    caps = {name: float(model.meta(f"{{arch}}.{key}") or 0) for name, key in keys.items()}
    return {name: cap for name, cap in caps.items() if cap}
