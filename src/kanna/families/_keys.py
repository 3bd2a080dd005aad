"""The `{arch}.*` metadata that every decoder has, written as llama.cpp's converter writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kanna.families._rope import scaling_metadata
from kanna.model import MetaValue, f32, u32

if TYPE_CHECKING:
    from kanna.families._config import Config


def common(
    arch: str,
    c: Config,
    *,
    head_dim: bool | None = None,
    rope_base: bool = True,
    scaling: bool = True,
    epsilon: str = "rms_norm_eps",
    mean: bool = False,
) -> dict[str, MetaValue]:
    """Sizes, norm epsilon, rope base and scaling.

    Args:
        arch: GGUF architecture name.
        c: The config.
        head_dim: Write key and value lengths; None means when the config names a head size.
        rope_base: Write the rope base.
        scaling: Write linear and yarn scaling.
        epsilon: Key of the norms' epsilon in config.json.
        mean: Norms subtract the mean (layer norms); others do not (RMS norms).
    """
    keys = {
        f"{arch}.block_count": u32(c.layers),
        f"{arch}.context_length": u32(c.context),
        f"{arch}.embedding_length": u32(c.hidden),
        **({f"{arch}.feed_forward_length": u32(c.ff)} if c.ff else {}),
        f"{arch}.attention.head_count": u32(c.heads),
        f"{arch}.attention.head_count_kv": u32(c.kv_heads),
    }
    rope = c.rope()
    if scaling:
        keys |= scaling_metadata(arch, rope, c.context)
    if rope_base:
        keys[f"{arch}.rope.freq_base"] = f32(rope.theta)
    kind = "layer_norm_epsilon" if mean else "layer_norm_rms_epsilon"
    keys[f"{arch}.attention.{kind}"] = f32(c.number(epsilon))
    if head_dim if head_dim is not None else bool(c.get("head_dim")):
        keys[f"{arch}.attention.key_length"] = u32(c.head_dim)
        keys[f"{arch}.attention.value_length"] = u32(c.head_dim)
    return keys
