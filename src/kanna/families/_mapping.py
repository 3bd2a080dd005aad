"""Tensors of a Hugging Face source under their GGUF names, every one accounted for."""

from __future__ import annotations

import re
from collections.abc import KeysView
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from kanna import encodings
from kanna.errors import SourceError, UnsupportedError
from kanna.families import _mapping_problems as wrong
from kanna.families import _places
from kanna.families._config import Config
from kanna.families._places import Places, expected_shape, layer_of, part_of, split, text_name
from kanna.families.base import IGNORED, Family, Form, Problem
from kanna.families.views import Computed, HeadRows
from kanna.formats.views import Renamed, Shifted
from kanna.model import Tensor, columns, num_rows

if TYPE_CHECKING:
    from kanna.sources import Source


_COMPARED = 1 << 22
"""Values of two matrices that are compared at once."""


def map_tensors(source: Source, family: Family, c: Config) -> tuple[list[Tensor], list[Problem]]:
    """GGUF tensors of the source in layer order, and unknown, missing or misshapen ones."""
    places = _places.places(family, c)
    given, problems = _own_tensors(source, family, c)
    names = given.keys()
    for block in family.blocks_of(c):
        if block.regrouping is not None:
            given = block.regrouping.gather(given, c)
    sizes = cache(partial(family.all_sizes, c))
    mapped: dict[str, Tensor] = {}
    present: set[str] = set()
    for name, tensor in given.items():
        gguf_name = _gguf_name(places, family, name)
        if gguf_name is None:
            problems.append(wrong.unknown(_published(source, family, name), tensor, family))
            continue
        base, kind = split(gguf_name)
        if kind == "bias" and (flag := _absent_bias(family, base, c)):
            problems.append(wrong.ignored_bias(name, flag))
            continue
        present.add(gguf_name)
        shape = expected_shape(family, sizes(layer_of(gguf_name)), gguf_name)
        form = _form(family, gguf_name)
        shape = form.hf_shape(shape) if form else shape
        if tuple(tensor.shape) != shape:
            problems.append(wrong.misshapen(name, gguf_name, tuple(tensor.shape), shape))
            continue
        if not _has_values(tensor.dtype):
            problems.append(wrong.no_floats(name, tensor.dtype))
            continue
        mapped[gguf_name] = _view(family, gguf_name, tensor, c)
    for name, array in family.extra(c).items():
        if name not in present:
            present.add(name)
            mapped[name] = Computed(name, np.ascontiguousarray(array, dtype=np.float32))
    problems += _missing(family, places, present, names, c) + _tied_head(mapped, family, c)
    order = {name: i for i, name in enumerate(places.in_order())}
    # What is computed from the config and has no place in a checkpoint comes first.
    ordered = sorted(mapped, key=lambda n: (order.get(split(n)[0], -1), n.endswith(".bias")))
    return [mapped[n] for n in ordered], problems


def _own_tensors(
    source: Source, family: Family, c: Config
) -> tuple[dict[str, Tensor], list[Problem]]:
    """Tensors of the text model by the names they have without a wrapper."""
    given: dict[str, Tensor] = {}
    unused = _places.unused(family, c)
    skipped = 0
    for hf_name, tensor in source.tensors.items():
        if any(re.fullmatch(p, hf_name) for p in family.skipped):
            skipped += 1
            continue
        name = family.respell(text_name(hf_name))
        if name.rpartition(".")[0] in unused:
            continue
        if not any(re.fullmatch(p, name) for p in IGNORED):
            given[name] = tensor
    if not skipped:
        return given, []
    note = f"{skipped} vision tensors are left out: the text model is converted"
    return given, [Problem(note, fatal=False)]


def _published(source: Source, family: Family, name: str) -> str:
    """The name of a tensor as its file has it; of one that was put together its own."""
    return next((n for n in source.tensors if family.respell(text_name(n)) == name), name)


def _gguf_name(places: Places, family: Family, name: str) -> str | None:
    """The GGUF name of a Hugging Face tensor; None where the family has no place for it."""
    if name in places.tensors:
        return places.tensors[name]
    module, _, kind = name.rpartition(".")
    gguf_module = places.modules.get(module)
    if gguf_module is None:
        return None
    part = part_of(gguf_module)
    may = kind == "weight" or (
        kind == "bias" and (part in family.biases or f"{part}.bias" in family.optional)
    )
    return f"{gguf_module}.{kind}" if may else None


def _absent_bias(family: Family, gguf_module: str, c: Config) -> str | None:
    """The config key by which transformers has no bias at this module, or None."""
    flags = (f for f, parts in family.bias_flags.items() if part_of(gguf_module) in parts)
    return next((f for f in flags if c.get(f) is not True), None)


def _tied_head(mapped: dict[str, Tensor], family: Family, c: Config) -> list[Problem]:
    """A head that was saved beside the embedding it is said to be: left out where it is the same.

    transformers 5 keeps a head that differs, and so do runtimes that can.
    """
    head, embedding = mapped.get("output.weight"), mapped.get("token_embd.weight")
    if not c.tied or head is None or embedding is None:
        return []
    if same_values(head, embedding):
        del mapped["output.weight"]
        return []
    if True in family.fixed.get("tie_word_embeddings", ()):
        return [
            Problem(
                "lm_head.weight differs from the embedding, and config.json has "
                "tie_word_embeddings = True",
                "one matrix for both, the only one llama.cpp knows in this family",
                "leave lm_head.weight out if the embedding is the head that was trained",
            )
        ]
    return [
        Problem(
            "config.json has tie_word_embeddings = True, and lm_head.weight differs from the "
            "embedding: the head is kept, as in transformers 5",
            fatal=False,
        )
    ]


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two matrices hold the same; True where their values were not fetched."""
    if one.shape != other.shape:
        return False
    rows = num_rows(one)
    step = max(1, _COMPARED // max(1, columns(one)))
    try:
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            first, second = one.raw(start, stop), other.raw(start, stop)
            if one.dtype == other.dtype and first is not None and second is not None:
                same = np.array_equal(first, second)
            else:
                same = np.array_equal(one.rows(start, stop), other.rows(start, stop))
            if not same:
                return False
    except SourceError:
        return True
    return True


def _has_values(dtype: str) -> bool:
    """Whether a tensor of this type is read as numbers of a matrix."""
    try:
        return encodings.get(dtype).decoder is not None
    except UnsupportedError:
        return False


def _missing(
    family: Family, places: Places, present: set[str], given: KeysView[str], c: Config
) -> list[Problem]:
    """Tensors the architecture needs and the source lacks."""
    needed: dict[str, str] = {}
    for hf_name, gguf_name in places.modules.items():
        needed[f"{gguf_name}.weight"] = f"{hf_name}.weight"
        if part_of(gguf_name) in family.biases:
            needed[f"{gguf_name}.bias"] = f"{hf_name}.bias"
    needed |= {gguf_name: hf_name for hf_name, gguf_name in places.tensors.items()}
    problems: list[Problem] = []
    for gguf_name, hf_name in needed.items():
        kind = split(gguf_name)[1]
        optional = f"{part_of(gguf_name)}.{kind}".rstrip(".") in family.optional
        if gguf_name in present or optional:
            continue
        if gguf_name == "output.weight":
            # Without a head of its own a model reads its embedding backwards.
            if not c.tied:
                problems.append(
                    Problem(
                        "lm_head.weight is absent: the embedding is used as the output matrix",
                        fatal=False,
                    )
                )
            continue
        lost = next((n for n in _pieces(family, hf_name, c) if n not in given), hf_name)
        problems.append(
            Problem(
                f"tensor {lost} is missing",
                f"every tensor of the {c.layers} layers config.json names",
                "a shard is missing or the download stopped: fetch the model again",
            )
        )
    return problems


def _pieces(family: Family, hf_name: str, c: Config) -> list[str]:
    """What a tensor is made of in a checkpoint."""
    for block in family.blocks_of(c):
        if block.regrouping is not None:
            pieces = block.regrouping.pieces(hf_name, c)
            if pieces != [hf_name]:
                return pieces
    return [hf_name]


def _form(family: Family, gguf_name: str) -> Form | None:
    return family.forms.get(part_of(gguf_name))


def _view(family: Family, gguf_name: str, tensor: Tensor, c: Config) -> Tensor:
    """The tensor as llama.cpp expects it."""
    part = part_of(gguf_name)
    if (form := _form(family, gguf_name)) is not None:
        return form.to_gguf(gguf_name, tensor, c)
    if family.rotate_half and part in ("attn_q", "attn_k"):
        return HeadRows(gguf_name, tensor, c.head_dim)
    if family.norm_offset and part.endswith("norm"):
        return Shifted(gguf_name, tensor, family.norm_offset)
    return Renamed(gguf_name, tensor)
