"""Tensors of a Hugging Face source under their GGUF names, every one accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kanna import encodings
from kanna.errors import SourceError, UnsupportedError
from kanna.families.base import IGNORED, SHAPES, Config, Family, Problem
from kanna.families.views import Computed, HeadRows, Renamed, Shifted
from kanna.model import Tensor, columns, num_rows

if TYPE_CHECKING:
    from kanna.sources import Source


_COMPARED = 1 << 22
"""Values of two matrices that are compared at once."""


def _modules(names: Mapping[str, str], layers: int) -> dict[str, str]:
    """Every module of the model: Hugging Face name → GGUF name."""
    modules: dict[str, str] = {}
    for hf_name, gguf_name in names.items():
        for layer in range(layers) if "{}" in hf_name else (0,):
            modules[hf_name.replace("{}", str(layer))] = gguf_name.replace("{}", str(layer))
    return modules


def _part(gguf_name: str) -> str:
    """`attn_q` of `blk.0.attn_q`."""
    return re.sub(r"^blk\.\d+\.", "", gguf_name)


def _may_have(family: Family, gguf_name: str, kind: str) -> bool:
    """Whether a module may have a `weight` or `bias`."""
    part = _part(gguf_name)
    return kind == "weight" or (
        kind == "bias" and (part in family.biases or f"{part}.bias" in family.optional)
    )


def _text_name(name: str) -> str:
    """A name without the prefixes multimodal wrappers put before the language model."""
    for prefix in ("model.language_model.", "language_model.model.", "language_model."):
        if name.startswith(prefix):
            suffix = name.removeprefix(prefix)
            return suffix if suffix.startswith("lm_head") else "model." + suffix
    return name


def expected_shape(family: Family, sizes: Mapping[str, int], gguf_name: str) -> tuple[int, ...]:
    """Shape a tensor must have, from the config; biases are vectors of the first size."""
    base, _, kind = gguf_name.rpartition(".")
    part = _part(base)
    symbols = family.shapes.get(part) or SHAPES[part]
    shape = tuple(sizes[s] for s in symbols)
    return shape[:1] if kind == "bias" else shape


def map_tensors(source: Source, family: Family, c: Config) -> tuple[list[Tensor], list[Problem]]:
    """GGUF tensors of the source in layer order, and unknown, missing or misshapen ones."""
    modules = _modules(family.names, c.layers)
    sizes, problems = c.sizes, list[Problem]()
    mapped: dict[str, Tensor] = {}
    present: set[str] = set()
    skipped = 0
    for hf_name, tensor in source.tensors.items():
        if any(re.fullmatch(p, hf_name) for p in family.skipped):
            skipped += 1
            continue
        name = _text_name(hf_name)
        if any(re.fullmatch(p, name) for p in IGNORED):
            continue
        module, _, kind = name.rpartition(".")
        gguf_module = modules.get(module)
        if gguf_module is None or not _may_have(family, gguf_module, kind):
            problems.append(_unknown(hf_name, tensor, family))
            continue
        gguf_name = f"{gguf_module}.{kind}"
        if kind == "bias" and (flag := _absent_bias(family, gguf_module, c)):
            problems.append(_ignored_bias(hf_name, flag))
            continue
        present.add(gguf_name)
        shape = expected_shape(family, sizes, gguf_name)
        if tuple(tensor.shape) != shape:
            problems.append(_misshapen(hf_name, tuple(tensor.shape), shape))
            continue
        if not _has_values(tensor.dtype):
            problems.append(_no_floats(hf_name, tensor.dtype))
            continue
        mapped[gguf_name] = _view(family, gguf_name, tensor, c)
    if skipped:
        problems.append(
            Problem(
                f"{skipped} vision tensors are left out: the text model is converted", fatal=False
            )
        )
    problems += _missing(family, modules, present, c) + _tied_head(mapped, family, c)
    computed = [
        Computed(name, np.ascontiguousarray(v, dtype=np.float32))
        for name, v in family.extra(c).items()
    ]
    order = {name: i for i, name in enumerate(_sorted(modules))}
    names = sorted(mapped, key=lambda n: (order[n.rpartition(".")[0]], not n.endswith(".weight")))
    return [*computed, *(mapped[n] for n in names)], problems


def _absent_bias(family: Family, gguf_module: str, c: Config) -> str | None:
    """The config key by which transformers has no bias at this module, or None."""
    flags = (f for f, parts in family.bias_flags.items() if _part(gguf_module) in parts)
    return next((f for f in flags if c.get(f) is not True), None)


def _ignored_bias(name: str, flag: str) -> Problem:
    return Problem(
        f"{name} is in the weights, and config.json has no {flag}: transformers leaves it out",
        f"{flag} true, or no such tensor",
        f"set {flag} to true in config.json if the model was trained with it",
    )


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


def _sorted(modules: Mapping[str, str]) -> list[str]:
    """GGUF names in the order they are written: embedding, layers one by one, the end."""
    outer = [m for m in modules.values() if not m.startswith("blk.")]
    inner = [m for m in modules.values() if m.startswith("blk.")]
    inner.sort(key=lambda m: int(m.split(".")[1]))
    return outer[:1] + inner + outer[1:]


def _unknown(name: str, tensor: Tensor, family: Family) -> Problem:
    return Problem(
        f"tensor {name} {list(tensor.shape)} has no place in {family.arch}",
        todo="the model differs from its class: a fork, an adapter or a part of a pipeline",
    )


def _has_values(dtype: str) -> bool:
    """Whether a tensor of this type is read as numbers of a matrix."""
    try:
        return encodings.get(dtype).decoder is not None
    except UnsupportedError:
        return False


def _no_floats(name: str, dtype: str) -> Problem:
    return Problem(
        f"{name} holds {dtype} values",
        "a floating type: f16, bf16, f32 or f64",
        "use the 16-bit release of this model, or store the tensor in a floating type",
    )


def _misshapen(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> Problem:
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        rows = shape[0] if shape else 0
        return Problem(
            f"{name} has {rows} rows, config.json says vocab_size {expected[0]}",
            "as many embedding rows as vocab_size",
            "set vocab_size in config.json to the rows there are (or resize the embeddings and "
            "save the model again)",
        )
    return Problem(
        f"{name} has shape {list(shape)}",
        f"{list(expected)} from config.json",
        "fetch the model again",
    )


def _missing(
    family: Family, modules: Mapping[str, str], present: set[str], c: Config
) -> list[Problem]:
    """Tensors the architecture needs and the source lacks."""
    problems: list[Problem] = []
    for hf_name, gguf_name in modules.items():
        part = _part(gguf_name)
        for kind in ("weight", "bias") if part in family.biases else ("weight",):
            if f"{gguf_name}.{kind}" in present or f"{part}.{kind}" in family.optional:
                continue
            if part == "output":
                # Without a head of its own a model reads its embedding backwards.
                if not c.tied:
                    problems.append(
                        Problem(
                            "lm_head.weight is absent: the embedding is used as the output matrix",
                            fatal=False,
                        )
                    )
                continue
            problems.append(
                Problem(
                    f"tensor {hf_name}.{kind} is missing",
                    f"every tensor of the {c.layers} layers config.json names",
                    "a shard is missing or the download stopped: fetch the model again",
                )
            )
    return problems


def _view(family: Family, gguf_name: str, tensor: Tensor, c: Config) -> Tensor:
    """The tensor as llama.cpp expects it."""
    part = gguf_name.split(".")[-2]
    if family.rotate_half and part in ("attn_q", "attn_k"):
        return HeadRows(gguf_name, tensor, c.head_dim)
    if family.norm_offset and part.endswith("norm"):
        return Shifted(gguf_name, tensor, family.norm_offset)
    return Renamed(gguf_name, tensor)
