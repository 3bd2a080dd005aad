"""What transformers makes of a config, for a process of its own.

The model is made without memory for weights; its rotary embeddings are made for real, and asked by
how much a position turns.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any


def read(config: dict[str, Any]) -> dict[str, Any]:
    """A `Computation` as JSON; {"failure": why} where transformers does not read the config.

    Args:
        config: config.json.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
            loaded: Any = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        text: Any = loaded.get_text_config()
        with torch.device("meta"):
            model: Any = transformers.AutoModelForCausalLM.from_config(
                text, attn_implementation="eager"
            )
        return _computation(torch, transformers.__version__, model, text)
    except Exception as error:  # whatever a config's class raises
        return {"failure": f"transformers: {type(error).__name__}: {error}"[:300]}


def _computation(torch: Any, version: str, model: Any, config: Any) -> dict[str, Any]:
    decoder = model.get_decoder()
    decoder = decoder if hasattr(decoder, "layers") else decoder.model
    kinds = list(getattr(config, "layer_types", None) or [None] * len(decoder.layers))
    names = list(dict.fromkeys(kinds))
    rotary = next((m for m in model.modules() if _is_rotary(m)), None)
    if rotary is None:
        size = next(m.head_dim for m in model.modules() if hasattr(m, "head_dim"))
        ropes = [_unturned(int(size) // 2)] * len(names)
    else:
        real = type(rotary)(config)
        ropes = [_rope(torch, real, config, kind) for kind in names]
    ropes.append(_unturned(len(ropes[0]["frequencies"])))
    layers: list[dict[str, Any]] = []
    for number, (layer, kind) in enumerate(zip(decoder.layers, kinds, strict=True)):
        rotates = _rotates(layer, config, number)
        layers.append(_layer(layer, config, names.index(kind) if rotates else len(names)))
    return {
        "name": f"transformers {version}",
        "layers": layers,
        "ropes": ropes,
        "vocabulary": int(config.vocab_size),
        "context": int(config.max_position_embeddings),
        "own_head": not config.tie_word_embeddings,
        "final_softcap": float(getattr(config, "final_logit_softcapping", None) or 0),
    }


def _attention(layer: Any) -> Any:
    """The part of a layer that attends; None where it has none."""
    mixer = getattr(layer, "mixer", None)
    return getattr(layer, "self_attn", mixer if hasattr(mixer, "q_proj") else None)


def _rotates(layer: Any, config: Any, number: int) -> bool:
    """Whether the layer has a rotary embedding at all."""
    listed = getattr(config, "no_rope_layers", None)
    attention = _attention(layer)
    if hasattr(attention, "sliding_window_pattern"):  # EXAONE 4: where others have a window
        return attention.sliding_window is None or attention.is_sliding
    return bool(getattr(attention, "use_rope", listed[number] if listed else 1))


def _is_rotary(module: Any) -> bool:
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _unturned(pairs: int) -> dict[str, Any]:
    """The embedding of a layer that has none: nothing turns."""
    still = [0.0] * pairs
    return {
        "frequencies": still,
        "factor": 1.0,
        "long_frequencies": still,
        "long_factor": 1.0,
    }


def _layer(layer: Any, config: Any, rope: int) -> dict[str, Any]:
    attention = _attention(layer)
    norm = next(m for n, m in layer.named_children() if n.endswith("norm"))
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if attention is None:
        return {"attends": False, "epsilon": epsilon and float(epsilon)}
    heads = int(config.num_attention_heads)
    window = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
    if not (getattr(config, "use_sliding_window", True) and getattr(attention, "is_sliding", True)):
        window = None
    return {
        "heads": heads,
        "kv_heads": heads // int(attention.num_key_value_groups),
        "head_size": int(attention.head_dim),
        "rope": rope,
        "scale": float(attention.scaling),
        "window": int(window or 0),
        "softcap": float(getattr(attention, "attn_logit_softcapping", None) or 0),
        "epsilon": None if epsilon is None else float(epsilon),
    }


def _rope(torch: Any, rotary: Any, config: Any, kind: str | None) -> dict[str, Any]:
    """Frequencies and factor in a text of two tokens, and in one as long as the context."""
    takes_kind = "layer_type" in inspect.signature(rotary.forward).parameters
    more = (kind,) if takes_kind else ()

    def ask(last: int) -> tuple[list[float], float]:
        turned = rotary(torch.zeros(1, 1, 1), torch.tensor([[0, 1, last]]), *more)
        # Llama 4 turns pairs as complex numbers.
        cosine, sine = (turned.real, turned.imag) if torch.is_tensor(turned) else turned
        c, s = cosine[0, 1].double(), sine[0, 1].double()
        half = len(c) // 2
        if torch.equal(c[:half], c[half:]) and torch.equal(s[:half], s[half:]):
            c, s = c[:half], s[:half]  # most families have each pair's twice
        return torch.atan2(s, c).tolist(), float(torch.hypot(s, c).mean())

    short, factor = ask(1)
    long, long_factor = ask(int(config.max_position_embeddings) - 1)
    return {
        "frequencies": short,
        "factor": factor,
        "long_frequencies": long,
        "long_factor": long_factor,
    }
