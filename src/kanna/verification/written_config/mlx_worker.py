"""mlx-lm's model of a config, asked what it computes, in a process of its own.

`python -m kanna.verification.written_config.mlx_worker` answers a task per line. Weights of mlx are
lazy: those that no one reads take no memory.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from kanna._util.hidden_packages import UNUSED_BY_MLX, hide
from kanna._util.kept_process import serve


def read(config: dict[str, Any]) -> dict[str, Any]:
    """A `Computation` as JSON; {"failure": why} where mlx-lm does not take the config.

    Args:
        config: config.json, without settings of quantization.
    """
    import importlib.metadata

    import mlx.core as mx
    from mlx_lm import utils

    # No public function names the classes.
    classes_of: Any = vars(utils)["_get_classes"]
    try:
        kind, arguments = classes_of(config)
        model: Any = kind(arguments.from_dict(config))
        inside = getattr(model, "model", None)
        text: Any = getattr(model, "language_model", getattr(inside, "language_model", model))
        return {
            "name": f"mlx-lm {importlib.metadata.version('mlx-lm')}",
            **_computation(mx, text),
        }
    except Exception as error:  # whatever a model's class raises
        return {"failure": f"mlx-lm: {type(error).__name__}: {error}"[:300]}


def _computation(mx: Any, model: Any) -> dict[str, Any]:
    args: Any = getattr(model, "args", None) or model.config
    ropes: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for number, layer in enumerate(getattr(model, "layers", None) or model.model.layers):
        attention = _attention(layer)
        if attention is None:
            layers.append({"attends": False})
            continue
        size = int(getattr(attention, "head_dim", 0) or _head_size(args))
        rope = _rope(mx, getattr(attention, "rope", None), size)
        if rope not in ropes:
            ropes.append(rope)
        layers.append(_layer(args, model, layer, number, size, ropes.index(rope)))
    return {
        "layers": layers,
        "ropes": ropes,
        "vocabulary": int(args.vocab_size),
        "own_head": not _tied(model),
        "final_softcap": float(getattr(model, "final_logit_softcapping", None) or 0),
        "precision": 1e-6,
    }


def _attention(layer: Any) -> Any:
    """The part of a layer that attends; None where it has none."""
    mixer = getattr(layer, "mixer", None)
    return getattr(layer, "self_attn", mixer if hasattr(mixer, "q_proj") else None)


def _tied(model: Any) -> bool:
    return not hasattr(model, "lm_head")


def _head_size(args: Any) -> int:
    return int(getattr(args, "head_dim", 0) or args.hidden_size // args.num_attention_heads)


def _layer(args: Any, model: Any, layer: Any, number: int, size: int, rope: int) -> dict[str, Any]:
    attention = _attention(layer)
    scale = getattr(attention, "scale", None)
    return {
        "heads": int(getattr(attention, "n_heads", 0) or args.num_attention_heads),
        "kv_heads": int(getattr(attention, "n_kv_heads", 0) or args.num_key_value_heads),
        "head_size": size,
        "rope": rope,
        "scale": None if scale is None else float(scale),
        "window": _window(args, model, layer, number),
        "softcap": float(getattr(attention, "attn_logit_softcapping", None) or 0),
        "epsilon": _epsilon(layer),
    }


def _epsilon(layer: Any) -> float | None:
    names = ("input_layernorm", "operator_norm", "norm", "post_attention_layernorm")
    norm = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    return None if norm is None else float(norm.eps)


def _window(args: Any, model: Any, layer: Any, number: int) -> int:
    """Tokens that a layer attends to, 0 for all."""
    window = int(getattr(args, "sliding_window", None) or 0)
    for flag in ("use_sliding", "is_sliding"):
        if hasattr(layer, flag):
            return window if getattr(layer, flag) else 0
    kinds = getattr(getattr(model, "model", None), "layer_types", None)
    if kind := kinds[number] if kinds else getattr(layer, "layer_type", None):
        return window if kind == "sliding_attention" else 0
    pattern = getattr(args, "sliding_window_pattern", None)
    if pattern is None:
        return 0
    if isinstance(pattern, str):  # a letter for each layer
        return window if pattern[number % len(pattern)] == "L" else 0
    return window if (number + 1) % int(pattern) else 0


def _rope(mx: Any, rope: Any, size: int) -> dict[str, Any]:
    """Frequencies and factor, of what a vector of ones and zeros becomes at position 1."""
    half = size // 2
    rotating = int(getattr(rope, "dims", None) or getattr(rope, "dim", None) or size) // 2
    if rope is None:
        cosine, sine = [1.0] * half, [0.0] * half
    else:
        vector = mx.zeros((1, 1, 1, size))
        apart = getattr(rope, "traditional", False)  # pairs side by side, or half by half
        ones = slice(0, 2 * rotating, 2) if apart else slice(0, rotating)
        vector[..., ones] = 1.0
        turned: list[float] = rope(vector, offset=1).reshape(-1).tolist()
        others = slice(1, 2 * rotating, 2) if apart else slice(rotating, 2 * rotating)
        cosine, sine = turned[ones], turned[others]
    factor = sum(map(math.hypot, cosine, sine)) / max(1, min(half, rotating))
    frequencies = [math.atan2(s, c) for c, s in zip(cosine, sine, strict=True)]
    return {
        "frequencies": frequencies,
        "factor": factor,
        "long_frequencies": frequencies,
        "long_factor": factor,
    }


if __name__ == "__main__":
    hide(*UNUSED_BY_MLX)
    sys.exit(serve(read))
