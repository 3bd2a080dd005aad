"""From a source to a Model; every value is checked before a weight is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kanna import tokenizer
from kanna.errors import KannaError, SourceError, UnsupportedError
from kanna.families import _accounting, _bounds, _pooling, _reranker, _rope_checks
from kanna.families._config import Config
from kanna.families._general import general
from kanna.families._mapping import map_tensors
from kanna.families._refusal import raise_fatal
from kanna.families._registry import family_of
from kanna.families.base import Family, Problem
from kanna.formats.vectors import encodes
from kanna.model import ALREADY_QUANTIZED, MetaValue, Model, ValueType, num_weights, string
from kanna.tokenizer.files import side_files
from kanna.tokenizer.repeated import repeated

if TYPE_CHECKING:
    from kanna.sources import Source


def load_model(source: Source) -> Model:
    """The model of a source, with GGUF names and metadata; no weight is read.

    Args:
        source: A source that is open.

    Raises:
        UnsupportedError: The family or a part of it is not known; names all problems at once.
        SourceError: A value of the config or tokenizer is wrong.
    """
    if source.kind == "gguf":
        return _from_gguf(source)
    _, family = family_of(source.config)
    config = _config_of(source, family)
    _bounds.check_config(family, config, source.tensors)
    problems = _config_problems(family, config)
    tensors, tensor_problems = map_tensors(source, family, config)
    pooling, pooling_problems = _pooling.pooling_of(source, family, config)
    problems += tensor_problems + pooling_problems
    raise_fatal(problems)
    shaped = {t.name: t for t in tensors}
    metadata, notes = general(source, sum(num_weights(t) for t in tensors), family.arch)
    metadata |= family.metadata(config)
    for block in family.blocks_of(config):
        metadata |= block.metadata(family.arch, config)
    metadata |= _pooling.metadata(family, pooling, source.files)
    tokens = tokenizer.load(source, rows=config.vocab, surplus=family.surplus)
    metadata |= tokens.metadata
    if (ranking := _reranker.ranking_of(source, family)) is not None:
        shaped = _reranker.with_head(shaped, ranking, config, tokens.metadata)
        metadata |= _reranker.metadata(family, ranking)
    name, tokenizer_notes = tokens.adapt(str(metadata["general.name"].value))
    metadata["general.name"] = string(name)
    return Model(
        name=source.name,
        family=family.arch,
        tensors=shaped,
        metadata=metadata,
        config=dict(source.config),
        notes=[*source.notes, *(_sentence(p) for p in problems), *notes],
        side_files=side_files(source.files) | _pooling.side_files(source.files),
        tokenizer_refusal=tokens.refusal,
        tokenizer_notes=tokenizer_notes,
    )


def load_for_gguf(source: Source) -> Model:
    """As `load_model`; raises UnsupportedError for a tokenizer that llama.cpp cannot have."""
    model = load_model(source)
    require_tokenizer(model)
    return model


def load_decoder(source: Source) -> Model:
    """As `load_model`, of a model that predicts tokens.

    Raises:
        UnsupportedError: It is an encoder, whose outputs no text is generated from.
    """
    model = load_model(source)
    if encodes(model):
        raise UnsupportedError(
            f"{source.given} is an encoder ({model.family}): it makes vectors, no text",
            expected="a model that generates text",
            todo="encoders are converted to GGUF (--preset Q8_0) and to ONNX (--preset onnx:int8), "
            "and proved by their vectors: kanna convert SRC -o FILE --verify",
        )
    return model


def require_tokenizer(model: Model) -> None:
    """Raise UnsupportedError for a tokenizer that llama.cpp cannot have."""
    if model.tokenizer_refusal is not None:
        raise model.tokenizer_refusal


def check(source: Source) -> list[Problem]:
    """Everything that stands in the way of `source`, and what its user must know.

    Empty when all is well.
    """
    if source.kind == "gguf":
        return []
    try:
        _, family = family_of(source.config)
        config = _config_of(source, family)
        _bounds.check_config(family, config, source.tensors)
        problems = _config_problems(family, config) + map_tensors(source, family, config)[1]
        problems += _pooling.pooling_of(source, family, config)[1]
    except KannaError as error:
        return [Problem(error.found, error.expected, error.todo)]
    try:
        tokenizer.metadata(source, rows=config.vocab, surplus=family.surplus)
    except KannaError as error:
        problems.append(Problem(error.found, error.expected, error.todo))
    return problems


def _config_of(source: Source, family: Family) -> Config:
    return Config(family.respell_config(source.config), family.defaults, source.tensors)


def _sentence(problem: Problem) -> str:
    return ". ".join(part for part in (problem.found, problem.todo) if part)


def _config_problems(family: Family, c: Config) -> list[Problem]:
    problems: list[Problem] = []
    if c.get("quantization_config") is not None:
        settings = c.get("quantization_config")
        method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else settings
        problems.append(
            Problem(
                f"the weights are already quantized ({method})",
                "16- or 32-bit weights",
                "give the original model",
            )
        )
    problems += _accounting.problems(family, c) + _rope_checks.problems(family, c)
    if (family.rope_types and c.head_dim % 2) or c.heads % c.kv_heads:
        problems.append(
            Problem(
                f"{c.heads} heads of {c.head_dim} with {c.kv_heads} key-value heads",
                "an even head size, and heads a multiple of key-value heads",
            )
        )
    return problems + family.problems(c)


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
    if pair := repeated(source.gguf.value("tokenizer.ggml.tokens")):
        raise UnsupportedError(
            pair,
            expected="every token once, or llama.cpp ends when it loads the file",
            todo="convert again from the original model, with a newer converter",
        )
    model = Model(
        name=source.name,
        family=arch.value,
        tensors=dict(source.tensors),
        metadata=metadata,
        notes=list(source.notes),
    )
    quantized = [
        t
        for t in source.tensors.values()
        if t.dtype not in ("f32", "f16", "bf16", "f64") and t.dtype[0] != "i"
    ]
    if quantized and not source.merged:  # what merges adapters says it of the base
        kinds = sorted({t.dtype for t in quantized})
        model.notes.append(
            f"{ALREADY_QUANTIZED} ({', '.join(kinds)}): its losses stay, and more are added to them"
        )
    return model
