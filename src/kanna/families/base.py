"""What a family is: the data that turns one architecture's names, config and weights into GGUF's.

A family file exports FAMILY, a `Family` with a table of names and a few short functions. Everything
that does the work (lazy tensors, checks, metadata) is generic and lives in the modules beside this
one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kanna._util.typed import FLAG, FieldKind, TypedObject, number, read, shown, whole
from kanna.errors import SourceError
from kanna.families._config_keys import NULLABLE
from kanna.families._rope import LAYER_TYPES, Rope, rope_of
from kanna.model import F32, MetaValue, Model

Metadata = dict[str, MetaValue]
Shape = tuple[str, ...]
T = TypeVar("T")
_PART = number(0.0, 1.0)

NAMES: dict[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
    "model.norm": "output_norm",
    "lm_head": "output",
}
"""The names most decoder families share: Hugging Face module → GGUF tensor, `{}` is the layer."""

SHAPES: dict[str, Shape] = {
    "token_embd": ("vocab", "hidden"),
    "output": ("vocab", "hidden"),
    "output_norm": ("hidden",),
    "attn_norm": ("hidden",),
    "attn_q": ("q", "hidden"),
    "attn_k": ("kv", "hidden"),
    "attn_v": ("kv", "hidden"),
    "attn_qkv": ("qkv", "hidden"),
    "attn_output": ("hidden", "q"),
    "attn_q_norm": ("head",),
    "attn_k_norm": ("head",),
    "post_attention_norm": ("hidden",),
    "ffn_norm": ("hidden",),
    "ffn_gate": ("ff", "hidden"),
    "ffn_up": ("ff", "hidden"),
    "ffn_down": ("hidden", "ff"),
    "post_ffw_norm": ("hidden",),
}
"""Shape of each weight in the sizes of `Config.sizes`; a bias has the first of them."""

IGNORED: tuple[str, ...] = (
    r".*\.rotary_emb\.inv_freq",  # recomputed from the config by every runtime
    r".*\.(attn|self_attn)\.(masked_bias|bias)",  # causal masks saved by old transformers
)
"""Tensors no runtime needs, as full-match patterns of their Hugging Face names."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason why a source cannot be used (`fatal`), or something the user must know about it."""

    found: str
    expected: str = ""
    todo: str = ""
    fatal: bool = True


class Config:
    """config.json seen through a family.

    Nested text config merged, both spellings, defaults filled in.
    """

    def __init__(self, raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.raw = raw
        text = TypedObject(raw, "config.json").part("text_config").values
        merged = {**raw, **text}
        self.values: dict[str, Any] = {
            **defaults,
            **{k: v for k, v in merged.items() if v is not None or k in NULLABLE},
        }
        self.given = merged

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        return self.values.get(key, default)

    def count(self, key: str) -> int:
        """A positive integer of the config; SourceError when absent or something else."""
        return self._typed(key, FieldKind("a positive integer", whole(1).convert))

    def number(self, key: str) -> float:
        """A number of the config; SourceError when absent or something else."""
        return self._typed(key, number())

    def read(self, key: str, kind: FieldKind[T], default: T) -> T:
        """A value of another kind, or `default` where it is absent; SourceError for others."""
        return default if self.values.get(key) is None else self._typed(key, kind)

    def flag(self, key: str) -> bool:
        """Whether a key is true; SourceError for anything but true, false and null."""
        return self.read(key, FLAG, False)

    def _typed(self, key: str, kind: FieldKind[T]) -> T:
        value = self.values.get(key)
        converted = kind.convert(value)
        if converted is None:
            raise SourceError(
                f"config.json has {key} = {shown(value)}",
                expected=kind.words,
                todo="fetch config.json again from where the model was published",
            )
        return converted

    @property
    def window(self) -> int | None:
        """Tokens that a layer with a window sees; None: no layer has one."""
        return self.read("sliding_window", whole(), 0) or None

    def rotary_part(self) -> float:
        """Share of a head that rotates, among the parameters of the rotary embedding or beside."""
        params = self.rope().params
        if params.get("partial_rotary_factor") is None:
            return self.read("partial_rotary_factor", _PART, 1.0)
        return read(params["partial_rotary_factor"], _PART, "partial_rotary_factor", "config.json")

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.count("num_hidden_layers")

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.count("hidden_size")

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.count("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        """Key-value heads."""
        return self.count("num_key_value_heads") if self.get("num_key_value_heads") else self.heads

    @property
    def head_dim(self) -> int:
        """Values of a head."""
        return self.count("head_dim") if self.get("head_dim") else self.hidden // self.heads

    @property
    def ff(self) -> int:
        """Width of the feed-forward part."""
        return self.count("intermediate_size")

    @property
    def vocab(self) -> int:
        """Rows of the embedding."""
        return self.count("vocab_size")

    @property
    def context(self) -> int:
        """Tokens of context the model was trained for."""
        return self.count("max_position_embeddings")

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding."""
        return self.flag("tie_word_embeddings")

    def rope(self, layers: str = "full_attention") -> Rope:
        """Rotary embedding of the full (or sliding) attention layers, from either spelling."""
        return rope_of(self.values, layers)

    def layer_kinds(self) -> list[str] | None:
        """`layer_types`, one per layer, or None; SourceError for other kinds or another number."""
        given = self.get("layer_types")
        if given is None:
            return None
        if (
            not isinstance(given, list)
            or len(given) != self.layers
            or any(kind not in LAYER_TYPES for kind in given)
        ):
            raise SourceError(
                f"config.json has layer_types = {shown(given)}",
                expected=f"{self.layers} of {' and '.join(LAYER_TYPES)}, one per layer",
                todo="no stock runtime computes other kinds of layers of this family",
            )
        return given

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by the symbols of SHAPES."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "vocab": self.vocab,
            "hidden": self.hidden,
            "q": q,
            "kv": kv,
            "qkv": q + 2 * kv,
            "head": self.head_dim,
            "ff": self.ff,
            "2ff": 2 * self.ff,
        }


def _nothing(_: Config) -> dict[str, F32]:
    return {}


def _no_config(_: Model) -> dict[str, Any]:
    return {}


def _no_problems(_: Config) -> list[Problem]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture as data.

    Attributes:
        arch: GGUF architecture name.
        summary: What it is, in a line.
        architectures: Class names in config.json that mean this family.
        metadata: Config → the `{arch}.*` keys.
        names: Hugging Face module → GGUF tensor.
        optional: GGUF tensors (last part, with .weight or .bias) that may be absent.
        biases: GGUF modules (last part) that must have a bias.
        shapes: Differences from SHAPES.
        defaults: What transformers assumes when the config is silent.
        fixed: Config key → the values stock llama.cpp computes; any other is refused.
        rope_types: Rotary scalings this family may use.
        rotate_half: Q and k rows are stored half by half and go to llama.cpp interleaved.
        norm_offset: Added to every norm weight.
        extra: Config → computed f32 tensors.
        skipped: Patterns of tensors that belong to other parts (vision), dropped with a note.
        surplus: Added tokens beyond the embedding rows that may be dropped.
        checks: Config → further problems.
        reads: Keys of config.json that this family alone reads, beside those of `defaults`.
        bias_flags: Config key → GGUF modules (last part) that have a bias where it is true, and
            none where it is not.
        sliding: Whether layers with a window have a rotary embedding of their own.
        model_type: What config.json calls it.
        model_types: What it calls models that hold this one as their text part.
        to_config: Model → config keys of this family alone, for the way back to Hugging Face.
    """

    arch: str
    summary: str = ""
    architectures: tuple[str, ...]
    metadata: Callable[[Config], Metadata]
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    optional: frozenset[str] = frozenset()
    biases: frozenset[str] = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    rope_types: frozenset[str] = frozenset({"default", "linear", "yarn"})
    rotate_half: bool = False
    norm_offset: float = 0.0
    extra: Callable[[Config], dict[str, F32]] = _nothing
    skipped: tuple[str, ...] = ()
    surplus: frozenset[str] = frozenset()
    checks: Callable[[Config], list[Problem]] = _no_problems
    reads: frozenset[str] = frozenset()
    bias_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    sliding: bool = False
    model_type: str
    model_types: tuple[str, ...] = ()
    to_config: Callable[[Model], dict[str, Any]] = _no_config
