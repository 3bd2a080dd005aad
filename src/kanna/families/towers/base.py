"""What a vision tower is: the data that turns its names, sizes and settings into an mmproj's.

A file beside this one exports TOWER, a `Tower`. What does the work (checks, lazy tensors, metadata)
is generic and lives in `loading.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kanna._util.typed import TypedObject
from kanna.families.base import Problem
from kanna.model import MetaValue, Tensor

Metadata = dict[str, MetaValue]
Sizes = dict[str, int]
Shape = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """config.json and the settings of pictures, as a tower reads them.

    Attributes:
        whole: config.json.
        vision: Its vision part, with the defaults of the tower filled in.
        text: Its text part; the whole where it has none.
        pictures: preprocessor_config.json, or its part of processor_config.json.
    """

    whole: TypedObject
    vision: TypedObject
    text: TypedObject
    pictures: TypedObject


def _no_sizes(_: TowerConfig) -> Sizes:
    return {}


def _no_names(_: TowerConfig) -> dict[str, str]:
    return {}


def _as_it_is(_: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _no_problems(_: TowerConfig) -> list[Problem]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """One vision tower and its projector, as data.

    Attributes:
        projector: What llama.cpp calls it, `clip.projector_type`.
        summary: What it is, in a line.
        architectures: Class names in config.json of the models that have it.
        owns: Patterns of the names of its tensors in a checkpoint, and of its modules' prefix,
            which is cut off: what remains is a name of `names`.
        unused: Patterns of tensors that it has and llama.cpp does not read.
        names: Tensor of a checkpoint, without its prefix → tensor of the mmproj; `{}` is the layer.
        names_of: Config → further names, of tensors that it counts.
        token_rows: Tensor of the mmproj → the text of a token: it is that token's embedding.
        also: Tensor of the mmproj → another one, made of the same tensor of the checkpoint.
        given: The vision part → what it says, under the keys that other towers have.
        shapes: Tensor of the mmproj, `{}` for numbers → its shape in the sizes' symbols.
        sizes: Config → sizes by their symbols, beside those that every tower has.
        forms: Tensor of the mmproj → the view that llama.cpp expects of it.
        interleaved: Tensors of the mmproj whose rows go from halves of a head to pairs, as q and k
            of rotary positions.
        whole: Encoding of tensors that are never quantized: `f32`, or `f16` where 16 bits will do.
        metadata: Config → `clip.*` keys, beside those that every tower has.
        defaults: What transformers assumes of the vision part when it is silent.
        fixed: Key of the vision part → the values that llama.cpp computes; others are refused.
        checks: Config → further problems.
    """

    projector: str
    summary: str
    architectures: tuple[str, ...]
    owns: tuple[str, ...]
    unused: tuple[str, ...] = ()
    names: Mapping[str, str]
    names_of: Callable[[TowerConfig], Mapping[str, str]] = _no_names
    token_rows: Mapping[str, str] = field(default_factory=dict[str, str])
    also: Mapping[str, str] = field(default_factory=dict[str, str])
    given: Callable[[Mapping[str, Any]], dict[str, Any]] = _as_it_is
    shapes: Mapping[str, Shape]
    sizes: Callable[[TowerConfig], Sizes] = _no_sizes
    forms: Mapping[str, Callable[[str, Tensor], Tensor]] = field(
        default_factory=dict[str, Callable[[str, Tensor], Tensor]]
    )
    interleaved: frozenset[str] = frozenset()
    whole: Mapping[str, str] = field(default_factory=dict[str, str])
    metadata: Callable[[TowerConfig], Metadata]
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    checks: Callable[[TowerConfig], list[Problem]] = _no_problems
