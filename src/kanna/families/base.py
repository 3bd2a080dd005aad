"""What a family is: the data that turns one architecture's names, config and weights into GGUF's.

A family file exports FAMILY, a `Family` with a table of names and a few short functions. Everything
that does the work (lazy tensors, checks, metadata) is generic and lives in the modules beside this
one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kanna.families._config import Config
from kanna.model import F32, MetaValue, Model, Tensor

Metadata = dict[str, MetaValue]
Shape = tuple[str, ...]

ATTENTION: dict[str, str] = {
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
}
QK_NORMS: dict[str, str] = {
    "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
}
FEED_FORWARD: dict[str, str] = {
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}
PRE_NORMS: dict[str, str] = {
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
}
ENDS: dict[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
NAMES: dict[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    **ATTENTION,
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    **FEED_FORWARD,
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


def _nothing(_: Config) -> dict[str, F32]:
    return {}


def _no_config(_: Model) -> dict[str, Any]:
    return {}


def _no_problems(_: Config) -> list[Problem]:
    return []


def derived_head_size(c: Config) -> list[Problem]:
    """A problem where a head size of its own is given, and llama.cpp derives it from the width."""
    if c.head_dim == c.hidden // c.heads:
        return []
    return [
        Problem(
            f"config.json has head_dim = {c.head_dim}",
            f"{c.hidden // c.heads}, hidden_size by num_attention_heads",
            "no stock runtime computes this model",
        )
    ]


def _no_keys(_: str, __: Config) -> Metadata:
    return {}


def _no_names(_: Config) -> dict[str, str]:
    return {}


def _no_sizes(_: Config) -> dict[str, int]:
    return {}


def _no_layer_sizes(_: Config, __: int) -> dict[str, int]:
    return {}


def _any_config(_: Mapping[str, Any]) -> bool:
    return True


def always(_: Config) -> bool:
    """A block that every model of its family has."""
    return True


def _never(_: Config) -> bool:
    return False


def _as_it_is(name: str) -> str:
    return name


def every_layer(_: Config, __: int) -> bool:
    """A block that every layer has."""
    return True


class Form(Protocol):
    """How the values of a tensor differ between Hugging Face and GGUF."""

    def hf_shape(self, shape: tuple[int, ...], /) -> tuple[int, ...]:
        """The shape in Hugging Face of a tensor that has `shape` in GGUF."""
        ...

    def to_gguf(self, name: str, tensor: Tensor, c: Config, /) -> Tensor:
        """The tensor of a source, under its GGUF name, as llama.cpp expects it."""
        ...

    def to_hf(self, name: str, tensor: Tensor, c: Config, /) -> Tensor:
        """The tensor of a GGUF, under its Hugging Face name, as transformers expects it."""
        ...


class Regrouping(Protocol):
    """How the tensors of a checkpoint are put together, or apart, as GGUF stores them."""

    def gather(self, tensors: Mapping[str, Tensor], c: Config, /) -> dict[str, Tensor]:
        """Tensors of a checkpoint by name → as GGUF groups them, named as in `Block.tensors`."""
        ...

    def spread(self, tensors: Mapping[str, Tensor], c: Config, /) -> dict[str, Tensor]:
        """The way back, to the names that checkpoints are published with."""
        ...

    def pieces(self, name: str, c: Config, /) -> list[str]:
        """Names in a checkpoint of what a tensor of `Block.tensors` is made of."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How a decoder ranks: by the chance of the first of two words after a prompt.

    Attributes:
        name: What the names of such models have in them, in small letters.
        words: Both words, tokens of the vocabulary.
        prompt: What is put around `{query}` and `{document}`.
    """

    name: str
    words: tuple[str, str]
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part of the network that several families share, as data.

    Attributes:
        names: Hugging Face module → GGUF tensor, both with weight and bias.
        tensors: Hugging Face tensor → GGUF tensor, of those that are named in another way.
        more_names: Config → further modules and tensors by both names, of layers beside the
            model's.
        shapes: Shape of each GGUF part, in the sizes of `Config.sizes` and of `sizes` here.
        where: Whether a layer has this block.
        present: Whether a model has it at all; else its sizes and keys are not asked for.
        sizes: Config → further sizes by their symbols.
        forms: GGUF part → how its values are changed.
        metadata: Architecture and config → keys of the GGUF.
        to_config: Model → config keys of this block, for the way back to Hugging Face.
        defaults: As in `Family`.
        fixed: As in `Family`.
        reads: As in `Family`.
        regrouping: How its tensors are put together where GGUF groups them in another way.
        checks: Config → problems of this block.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    tensors: Mapping[str, str] = field(default_factory=dict[str, str])
    more_names: Callable[[Config], dict[str, str]] = _no_names
    shapes: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    where: Callable[[Config, int], bool] = every_layer
    present: Callable[[Config], bool] = always
    sizes: Callable[[Config], dict[str, int]] = _no_sizes
    forms: Mapping[str, Form] = field(default_factory=dict[str, Form])
    metadata: Callable[[str, Config], Metadata] = _no_keys
    to_config: Callable[[Model], dict[str, Any]] = _no_config
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    reads: frozenset[str] = frozenset()
    regrouping: Regrouping | None = None
    checks: Callable[[Config], list[Problem]] = _no_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture as data.

    Attributes:
        arch: GGUF architecture name.
        signature: GGUF part that tells its models from others of its `arch`; "" for none.
        summary: What it is, in a line.
        also: Models of other names whose checkpoints are of this family.
        architectures: Class names in config.json that mean this family.
        suits: Whether a config.json of these classes is this family's, where others have them too.
        metadata: Config → the `{arch}.*` keys.
        names: Hugging Face module → GGUF tensor; with those of the blocks.
        tensors: Hugging Face tensor → GGUF tensor, of those that are named in another way.
        blocks: Parts that other families have too; what they bring is merged into the fields here.
        unused: Modules that checkpoints have and no runtime reads; their GGUF names are empty.
        optional: GGUF tensors (last part, with .weight or .bias) that may be absent.
        biases: GGUF modules (last part) that must have a bias.
        shapes: Differences from SHAPES.
        defaults: What transformers assumes when the config is silent.
        fixed: Config key → the values stock llama.cpp computes; any other is refused.
        rope_types: Rotary scalings this family may use; none: it has no rotary embedding.
        rope_reads: Parameters of the rotary embedding that this family alone reads.
        rotate_half: Q and k rows are stored half by half and go to llama.cpp interleaved.
        norm_offset: Added to every norm weight.
        forms: GGUF part → how its values are changed beside the two above.
        sizes: Config → further sizes by their symbols.
        layer_sizes: Config and layer → sizes that differ in this layer.
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
        encodes: Whether it turns a text into a vector, and predicts no token.
        ranks: Config → whether a head turns a question and a text into one score.
        ranking: How its models rank that are published for it.
        steps: Kinds of steps that may follow pooling in this family, as sentence-transformers calls
            them.
        respell: Name of a tensor in a checkpoint → as `names` and `tensors` spell it.
        respell_config: config.json → in the keys that are read here.
        whole_config: Model → config.json, where it is not that of a decoder; None: it is.
    """

    arch: str
    signature: str = ""
    summary: str = ""
    also: tuple[str, ...] = ()
    architectures: tuple[str, ...]
    suits: Callable[[Mapping[str, Any]], bool] = _any_config
    metadata: Callable[[Config], Metadata]
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    tensors: Mapping[str, str] = field(default_factory=dict[str, str])
    blocks: tuple[Block, ...] = ()
    unused: Block | None = None
    optional: frozenset[str] = frozenset()
    biases: frozenset[str] = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    rope_types: frozenset[str] = frozenset({"default", "linear", "yarn"})
    rope_reads: frozenset[str] = frozenset()
    rotate_half: bool = False
    norm_offset: float = 0.0
    forms: Mapping[str, Form] = field(default_factory=dict[str, Form])
    sizes: Callable[[Config], dict[str, int]] = _no_sizes
    layer_sizes: Callable[[Config, int], dict[str, int]] = _no_layer_sizes
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
    encodes: bool = False
    ranks: Callable[[Config], bool] = _never
    ranking: Ranking | None = None
    steps: frozenset[str] = frozenset()
    respell: Callable[[str], str] = _as_it_is
    respell_config: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    whole_config: Callable[[Model], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        """Merge what the blocks bring; what the family says itself goes before."""
        for name in ("names", "tensors", "shapes", "forms", "defaults", "fixed"):
            merged = dict(getattr(self, name))
            for block in self.blocks:
                merged = {**merged, **getattr(block, name), **getattr(self, name)}
            object.__setattr__(self, name, merged)
        reads = self.reads.union(*(block.reads for block in self.blocks))
        object.__setattr__(self, "reads", reads)

    def has(self, c: Config, layer: int, gguf_name: str) -> bool:
        """Whether a layer has a tensor, by the block that names it.

        Args:
            c: The config.
            layer: Number of the layer.
            gguf_name: The tensor's name with `{}` for the layer.
        """
        blocks = [b for b in self.blocks if gguf_name in (*b.names.values(), *b.tensors.values())]
        return not blocks or any(b.present(c) and b.where(c, layer) for b in blocks)

    def blocks_of(self, c: Config) -> tuple[Block, ...]:
        """The blocks that a model with this config has."""
        return tuple(b for b in self.blocks if b.present(c))

    def problems(self, c: Config) -> list[Problem]:
        """Problems of a config that the family knows, or one of its blocks."""
        of_blocks = [problem for block in self.blocks_of(c) for problem in block.checks(c)]
        return of_blocks + self.checks(c)

    def all_sizes(self, c: Config, layer: int | None = None) -> dict[str, int]:
        """Sizes by the symbols of shapes: those of every family, of the blocks, of a layer."""
        sizes = c.sizes
        for part in (*self.blocks_of(c), self):
            sizes |= part.sizes(c)
        return sizes if layer is None else sizes | self.layer_sizes(c, layer)
