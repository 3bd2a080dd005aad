"""config.json seen through a family: text config merged, both spellings, defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from kanna._util.typed import FLAG, FieldKind, TypedObject, number, read, shown, whole
from kanna.errors import SourceError
from kanna.families._config_keys import NULLABLE, SYNONYMS
from kanna.families._rope import LAYER_TYPES, Rope, rope_of
from kanna.model import Tensor

T = TypeVar("T")
_PART = number(0.0, 1.0)


class Config:
    """config.json seen through a family.

    Nested text config merged, both spellings, defaults filled in.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        defaults: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.raw, self._tensors = raw, tensors or {}
        text = TypedObject(raw, "config.json").part("text_config").values
        merged = {**raw, **text}
        for other, key in SYNONYMS.items():
            if key not in merged and other in merged and key in defaults:
                merged[key] = merged.pop(other)
        self.values: dict[str, Any] = {
            **defaults,
            **{k: v for k, v in merged.items() if v is not None or k in NULLABLE},
        }
        self.given = merged

    def measured(self, name: str) -> int:
        """Rows of a tensor of the source that no key gives a size; 0 where it is absent."""
        tensor = self._tensors.get(name)
        return 0 if tensor is None or len(tensor.shape) < 2 else tensor.shape[0]

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
        """Number of layers, which some configs say by naming the kind of each."""
        if self.get("num_hidden_layers") is None:
            kinds = self.get("layers_block_type")
            if isinstance(kinds, list) and kinds:
                return len(kinds)
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
        """Width of the feed-forward part; 0 where every layer has experts instead."""
        return self.read("intermediate_size", whole(1), 0)

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

    def layer_kinds(self, allowed: tuple[str, ...] = LAYER_TYPES) -> list[str] | None:
        """`layer_types`, one per layer, or None; SourceError for other kinds or another number.

        Args:
            allowed: The kinds that the family has.
        """
        given = self.get("layer_types")
        if given is None:
            return None
        if (
            not isinstance(given, list)
            or len(given) != self.layers
            or any(kind not in allowed for kind in given)
        ):
            raise SourceError(
                f"config.json has layer_types = {shown(given)}",
                expected=f"{self.layers} of {' and '.join(allowed)}, one per layer",
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
