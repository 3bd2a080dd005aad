"""From a source to a Model.

Every tensor accounted for, every value checked before a weight is read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from kanna import tokenizer
from kanna._util import plugins
from kanna.errors import KannaError, SourceError, UnsupportedError
from kanna.families._general import general
from kanna.families.base import IGNORED, SHAPES, Config, Family, Problem
from kanna.families.views import Computed, HeadRows, Renamed, Shifted
from kanna.formats.onnx import encoder
from kanna.model import MetaValue, Model, Tensor, ValueType, num_weights, string

if TYPE_CHECKING:
    from kanna.sources import Source

PACKAGE = "kanna.families"


def names() -> list[str]:
    """Families that exist, by file name."""
    return list(plugins.names(PACKAGE, "FAMILY"))


def get(name: str) -> Family:
    return plugins.load(PACKAGE, name, "FAMILY")


def family_of(config: dict[str, Any]) -> tuple[str, Family]:
    """The family of a config.json, by its architecture class.

    UnsupportedError names the known ones.
    """
    found = [a for a in config.get("architectures") or [] if isinstance(a, str)]
    for name in names():
        if any(a in get(name).architectures for a in found):
            return name, get(name)
    if encoder.is_encoder(config):
        raise UnsupportedError(
            f"{', '.join(found)} is an encoder: it makes vectors, and no text",
            expected="a model that generates text",
            todo="encoders go to ONNX: kanna convert SRC -o folder --preset onnx:int8, then kanna verify SRC folder "
            "and kanna bench folder",
        )
    known = sorted(a for name in names() for a in get(name).architectures)
    what = (
        f"architecture {', '.join(found)}" if found else f"model type {config.get('model_type')!r}"
    )
    raise UnsupportedError(
        f"{what} is not supported",
        expected="one of " + ", ".join(known),
        todo="if someone published a GGUF of this model, give that: any architecture can be requantized from GGUF",
    )


def load_model(source: Source) -> Model:
    """The model of a source, with GGUF names and metadata; no weight is read.

    Raises UnsupportedError or SourceError with everything that is wrong, said at once.

    Args:
        source: A source that is open.
    """
    if source.kind == "gguf":
        return _from_gguf(source)
    _, family = family_of(source.config)
    config = Config(source.config, family.defaults)
    problems = _config_problems(family, config)
    tensors, more = _map(source, family, config)
    problems += more
    _raise(problems)
    shaped = {t.name: t for t in tensors}
    metadata, notes = general(source, sum(num_weights(t) for t in tensors), family.arch)
    metadata |= family.metadata(config)
    tokens = tokenizer.read(source, rows=config.vocab, surplus=family.surplus)
    metadata |= tokens.metadata
    name, more_notes = tokens.adapt(str(metadata["general.name"].value))
    metadata["general.name"] = string(name)
    return Model(
        name=source.name,
        family=family.arch,
        tensors=shaped,
        metadata=metadata,
        config=dict(source.config),
        notes=[_sentence(p) for p in problems] + notes + more_notes,
    )


def check(source: Source) -> list[Problem]:
    """Everything that stands in the way of `source`, and what its user must know.

    Empty when all is well.
    """
    if source.kind == "gguf":
        return []
    try:
        _, family = family_of(source.config)
        config = Config(source.config, family.defaults)
        problems = _config_problems(family, config) + _map(source, family, config)[1]
    except KannaError as error:
        return [Problem(error.found, error.expected, error.todo)]
    try:
        tokenizer.metadata(source, rows=config.vocab, surplus=family.surplus)
    except KannaError as error:
        problems.append(Problem(error.found, error.expected, error.todo))
    return problems


def _raise(problems: list[Problem]) -> None:
    fatal = [p for p in problems if p.fatal]
    if fatal:
        first = fatal[0]
        rest = "".join(f"\n  also: {p.found}" for p in fatal[1:6])
        more = f"\n  and {len(fatal) - 6} more" if len(fatal) > 6 else ""
        raise UnsupportedError(first.found + rest + more, expected=first.expected, todo=first.todo)


def _sentence(problem: Problem) -> str:
    return ". ".join(part for part in (problem.found, problem.todo) if part)


def _config_problems(family: Family, c: Config) -> list[Problem]:
    problems: list[Problem] = []
    if c.get("quantization_config") is not None:
        method = (c.get("quantization_config") or {}).get("quant_method", "unknown")
        problems.append(
            Problem(
                f"the weights are already quantized ({method})",
                "16- or 32-bit weights",
                "give the original model",
            )
        )
    for key, allowed in family.fixed.items():
        if (value := c.get(key)) is not None and value not in allowed:
            wanted = " or ".join(map(repr, allowed))
            problems.append(
                Problem(
                    f"config.json has {key} = {value!r}",
                    wanted,
                    "no stock runtime computes this model",
                )
            )
    for layers in ("full_attention", "sliding_attention"):
        rope = c.rope(layers)
        if rope.kind not in family.rope_types:
            problems.append(
                Problem(
                    f"rope scaling {rope.kind!r} is not known", ", ".join(sorted(family.rope_types))
                )
            )
    if c.head_dim % 2 or c.heads % c.kv_heads:
        problems.append(
            Problem(
                f"{c.heads} heads of {c.head_dim} with {c.kv_heads} key-value heads",
                "an even head size, and heads a multiple of key-value heads",
            )
        )
    return problems + family.checks(c)


def _match(names: dict[str, str], layers: int) -> dict[str, str]:
    """Every module of the model: Hugging Face name → GGUF name."""
    out: dict[str, str] = {}
    for theirs, ours in names.items():
        for layer in range(layers) if "{}" in theirs else (0,):
            out[theirs.replace("{}", str(layer))] = ours.replace("{}", str(layer))
    return out


def _part(ours: str) -> str:
    """`attn_q` of `blk.0.attn_q`."""
    return re.sub(r"^blk\.\d+\.", "", ours)


def _may_have(family: Family, ours: str, kind: str) -> bool:
    part = _part(ours)
    return kind == "weight" or (
        kind == "bias" and (part in family.biases or f"{part}.bias" in family.optional)
    )


def _plain(name: str) -> str:
    """A name without the prefixes multimodal wrappers put before the language model."""
    for prefix in ("model.language_model.", "language_model.model.", "language_model."):
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            return rest if rest.startswith("lm_head") else "model." + rest
    return name


def expected_shape(family: Family, sizes: dict[str, int], ours: str) -> tuple[int, ...]:
    """Shape a tensor must have, from the config; biases are vectors of the first size."""
    base, _, kind = ours.rpartition(".")
    part = _part(base)
    symbols = family.shapes.get(part) or SHAPES[part]
    shape = tuple(sizes[s] for s in symbols)
    return shape[:1] if kind == "bias" else shape


def _map(source: Source, family: Family, c: Config) -> tuple[list[Tensor], list[Problem]]:
    """GGUF tensors of the source in layer order, and problems.

    Unknown, missing or misshapen ones.
    """
    modules = _match(dict(family.names), c.layers)
    sizes, problems = c.sizes, list[Problem]()
    found: dict[str, Tensor] = {}
    seen: set[str] = set()
    skipped = 0
    for theirs, tensor in source.tensors.items():
        if any(re.fullmatch(p, theirs) for p in family.skipped):
            skipped += 1
            continue
        plain = _plain(theirs)
        module, _, kind = plain.rpartition(".")
        if any(re.fullmatch(p, plain) for p in IGNORED):
            continue
        ours = modules.get(module)
        if ours is None or not _may_have(family, ours, kind):
            problems.append(
                Problem(
                    f"tensor {theirs} {list(tensor.shape)} has no place in {family.arch}",
                    todo="the model differs from its class: a fork, an adapter or a part of a pipeline",
                )
            )
            continue
        ours = f"{ours}.{kind}"
        seen.add(ours)
        if c.tied and ours == "output.weight":
            continue  # a saved copy of the tied embedding
        wanted = expected_shape(family, sizes, ours)
        if tuple(tensor.shape) != wanted:
            problems.append(_misshapen(theirs, tuple(tensor.shape), wanted))
            continue
        found[ours] = _view(family, ours, tensor, c)
    if skipped:
        problems.append(
            Problem(
                f"{skipped} vision tensors are left out: the text model is converted", fatal=False
            )
        )
    problems += _missing(family, modules, seen, c)
    order = {name: i for i, name in enumerate(_sorted(modules, c.layers))}
    tensors = [
        Computed(name, np.ascontiguousarray(v, dtype=np.float32))
        for name, v in family.extra(c).items()
    ]
    ordered = sorted(found, key=lambda n: (order[n.rpartition(".")[0]], not n.endswith(".weight")))
    return [*tensors, *(found[n] for n in ordered)], problems


def _sorted(modules: dict[str, str], layers: int) -> list[str]:
    """GGUF names in the order they are written: embedding, layers one by one, the end."""
    outer = [m for m in modules.values() if not m.startswith("blk.")]
    inner = [m for m in modules.values() if m.startswith("blk.")]
    inner.sort(key=lambda m: int(m.split(".")[1]))
    return outer[:1] + inner + outer[1:]


def _misshapen(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Problem:
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return Problem(
            f"{name} has {shape[0] if shape else 0} rows, config.json says vocab_size {wanted[0]}",
            "as many embedding rows as vocab_size",
            "set vocab_size in config.json to the rows there are (or resize the embeddings and save the model again)",
        )
    return Problem(
        f"{name} has shape {list(shape)}",
        f"{list(wanted)} from config.json",
        "fetch the model again",
    )


def _missing(family: Family, modules: dict[str, str], seen: set[str], c: Config) -> list[Problem]:
    """Tensors the architecture needs and the source lacks."""
    problems: list[Problem] = []
    for theirs, ours in modules.items():
        part = _part(ours)
        for kind in ("weight", "bias") if part in family.biases else ("weight",):
            if f"{ours}.{kind}" in seen or f"{part}.{kind}" in family.optional:
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
                    f"tensor {theirs}.{kind} is missing",
                    f"every tensor of the {c.layers} layers config.json names",
                    "a shard is missing or the download stopped: fetch the model again",
                )
            )
    return problems


def _view(family: Family, ours: str, tensor: Tensor, c: Config) -> Tensor:
    """The tensor as llama.cpp wants it."""
    part = ours.split(".")[-2]
    if family.rotate_half and part in ("attn_q", "attn_k"):
        return HeadRows(ours, tensor, c.head_dim)
    if family.norm_offset and part.endswith("norm"):
        return Shifted(ours, tensor, family.norm_offset)
    return Renamed(ours, tensor)


def _from_gguf(source: Source) -> Model:
    """Any GGUF as it is: names, metadata and tensors pass through."""
    assert source.gguf is not None
    metadata: dict[str, MetaValue] = dict(source.gguf.metadata)
    arch = metadata.get("general.architecture")
    if arch is None or arch.type is not ValueType.STR or not arch.value:
        raise SourceError(
            "the GGUF names no general.architecture",
            expected="a language model",
            todo="check the file",
        )
    notes: list[str] = []
    quantized = [
        t
        for t in source.tensors.values()
        if t.dtype not in ("f32", "f16", "bf16", "f64") and t.dtype[0] != "i"
    ]
    if quantized:
        kinds = sorted({t.dtype for t in quantized})
        notes.append(
            f"the source is already quantized ({', '.join(kinds)}): its losses stay, and more are added to them"
        )
    return Model(
        name=source.name,
        family=arch.value,
        tensors=dict(source.tensors),
        metadata=metadata,
        notes=notes,
    )
