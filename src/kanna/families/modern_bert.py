"""ModernBERT: an encoder with rotary positions, and a window in two of three layers."""

from __future__ import annotations

from typing import Any

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families._stored_rope import short
from kanna.families.base import Block, Family, Metadata, Problem
from kanna.model import Model, ValueType, array, boolean, f32, u32

ARCH = "modern-bert"
PERIOD = 3
"""The first of so many layers sees the whole text, where config.json names no layer_types."""
_LAYER = "layers.{}"


def respell(name: str) -> str:
    """Without the prefix that models with a head have."""
    return name.removeprefix("model.")


def windows(c: Config) -> list[bool]:
    """For every layer, whether it has a window."""
    kinds = c.layer_kinds()
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    period = c.read("global_attn_every_n_layers", whole(1), PERIOD)
    return [i % period != 0 for i in range(c.layers)]


def _thetas(c: Config) -> tuple[float, float]:
    """Bases of the rotary embedding, of layers without and with a window."""
    if c.get("rope_parameters"):
        return c.rope().theta, c.rope("sliding_attention").theta
    return c.number("global_rope_theta"), c.number("local_rope_theta")


def metadata(c: Config) -> Metadata:
    """The `modern-bert.*` keys."""
    full, local = _thetas(c)
    windowed = windows(c)
    periods = (n for n in range(1, c.layers + 2) if _every(n, c.layers) == windowed)
    pattern = next((u32(n) for n in periods), array(windowed, ValueType.BOOL))
    return {
        f"{ARCH}.block_count": u32(c.layers),
        f"{ARCH}.context_length": u32(c.context),
        f"{ARCH}.embedding_length": u32(c.hidden),
        f"{ARCH}.feed_forward_length": u32(c.ff),
        f"{ARCH}.attention.head_count": u32(c.heads),
        f"{ARCH}.attention.layer_norm_epsilon": f32(c.number("norm_eps")),
        f"{ARCH}.attention.causal": boolean(False),
        f"{ARCH}.attention.sliding_window": u32(c.count("local_attention")),
        f"{ARCH}.attention.sliding_window_pattern": pattern,
        f"{ARCH}.rope.freq_base": f32(full),
        f"{ARCH}.rope.freq_base_swa": f32(local),
    }


def _every(period: int, layers: int) -> list[bool]:
    return [i % period != 0 for i in range(layers)]


def checks(c: Config) -> list[Problem]:
    """Sizes must divide."""
    if c.hidden % c.heads == 0:
        return []
    return [
        Problem(
            f"config.json has hidden_size = {c.hidden} and num_attention_heads = {c.heads}",
            "a width that is a multiple of the heads",
            "fetch config.json again from where the model was published",
        )
    ]


def whole_config(model: Model) -> dict[str, Any]:
    """config.json of ModernBERT."""
    layers = model.whole("{arch}.block_count", least=1)
    pattern = model.meta("{arch}.attention.sliding_window_pattern", PERIOD)
    windowed = _every(int(pattern), layers) if isinstance(pattern, int) else list(pattern)
    full, local = (
        short(model.meta(f"{{arch}}.rope.freq_base{ending}", 10000.0)) for ending in ("", "_swa")
    )
    kinds = ["sliding_attention" if w else "full_attention" for w in windowed]
    return {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "vocab_size": model.tensors["token_embd.weight"].shape[0],
        "hidden_size": model.whole("{arch}.embedding_length", least=1),
        "intermediate_size": model.whole("{arch}.feed_forward_length", least=1),
        "num_hidden_layers": layers,
        "num_attention_heads": model.whole("{arch}.attention.head_count", least=1),
        "max_position_embeddings": model.whole("{arch}.context_length", least=1),
        "norm_eps": short(model.meta("{arch}.attention.layer_norm_epsilon")),
        "local_attention": model.whole("{arch}.attention.sliding_window", least=1),
        "hidden_activation": "gelu",
        "layer_types": kinds,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": full},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
        **{
            f"{name}_token_id": model.meta(f"tokenizer.ggml.{key}_token_id")
            for name, key in (
                ("pad", "padding"),
                ("bos", "bos"),
                ("cls", "bos"),
                ("eos", "eos"),
                ("sep", "eos"),
            )
        },
    }


FAMILY = Family(
    arch=ARCH,
    summary="ModernBERT: an encoder with rotary positions, and a window in two of three layers",
    also=("gte-modernbert",),
    architectures=("ModernBertModel", "ModernBertForMaskedLM"),
    model_type="modernbert",
    metadata=metadata,
    names={
        "embeddings.tok_embeddings": "token_embd",
        "embeddings.norm": "token_embd_norm",
        f"{_LAYER}.attn_norm": "blk.{}.attn_norm",
        f"{_LAYER}.attn.Wqkv": "blk.{}.attn_qkv",
        f"{_LAYER}.attn.Wo": "blk.{}.attn_output",
        f"{_LAYER}.mlp_norm": "blk.{}.ffn_norm",
        f"{_LAYER}.mlp.Wi": "blk.{}.ffn_up",
        f"{_LAYER}.mlp.Wo": "blk.{}.ffn_down",
        "final_norm": "output_norm",
    },
    # The first layer has none: the embedding was normalized just before.
    optional=frozenset({"attn_norm.weight"}),
    unused=Block(names=dict.fromkeys(("head.dense", "head.norm", "decoder"), "")),
    shapes={"token_embd_norm": ("hidden",), "ffn_up": ("2ff", "hidden")},
    defaults={
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "local_attention": 128,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "hidden_activation": "gelu",
    },
    fixed={
        "hidden_activation": ("gelu",),
        "norm_bias": (False,),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "position_embedding_type": ("absolute", "rope"),  # read by nothing, and published so
    },
    reads=frozenset(
        {
            "classifier_activation",
            "classifier_bias",
            "classifier_pooling",
            "cls_token_id",
            "decoder_bias",
            "deterministic_flash_attn",
            "embedding_dropout",
            "global_attn_every_n_layers",
            "global_rope_theta",
            "initializer_cutoff_factor",
            "layer_norm_eps",
            "layer_types",
            "local_attention",
            "local_rope_theta",
            "mlp_dropout",
            "norm_eps",
            "reference_compile",
            "repad_logits_with_grad",
            "rope_local_base_freq",
            "sparse_pred_ignore_index",
            "sparse_prediction",
        }
    ),
    rope_types=frozenset({"default"}),
    sliding=True,
    checks=checks,
    encodes=True,
    respell=respell,
    whole_config=whole_config,
)
