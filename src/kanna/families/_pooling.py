"""How the states of a text's tokens become one vector: from and to sentence-transformers' files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanna.errors import SourceError
from kanna.families._config import Config
from kanna.families._registry import has_head
from kanna.families._reranker import ranking_of
from kanna.families.base import Family, Metadata, Problem
from kanna.formats import prompts, vectors
from kanna.formats.text_files import read_object
from kanna.formats.vectors import FIRST, LAST, MEAN, RANK
from kanna.model import Model, Tensor, num_rows, u32
from kanna.sources import sentence_modules
from kanna.sources.sentence_modules import VectorStep

if TYPE_CHECKING:
    from kanna.sources import Source

_MODES = {MEAN: "mean_tokens", FIRST: "cls_token", LAST: "lasttoken"}
_NAMES = {"mean": MEAN, "cls": FIRST, "lasttoken": LAST}
_FOLDER, _DENSE = "1_Pooling", "Dense"
_PACKAGE = "sentence_transformers.models"
SIDE_FILES = (
    sentence_modules.NAME,
    "sentence_bert_config.json",
    prompts.FILE,
)
"""Files of sentence-transformers beside a model, that folders keep."""
_EXPECTED = "mean, cls or lasttoken, which llama.cpp computes"
_AGAIN = "write an ONNX folder, or pool the vectors of tokens yourself"


_HEADLESS = Problem(
    f"config.json names a class without a head, and no {sentence_modules.NAME} says how its "
    "vectors are made",
    "a model that predicts tokens, or one for vectors with its files of sentence-transformers",
    "fetch the whole folder, with the folders inside it",
)


def pooling_of(source: Source, family: Family, c: Config) -> tuple[int | None, list[Problem]]:
    """How a source's vectors are made; None for a model that predicts tokens.

    Args:
        source: The source.
        family: Its family.
        c: Its config.

    Returns:
        A number of llama.cpp, and what stands against it or should be known.
    """
    if family.ranks(c) or ranking_of(source, family) is not None:
        return RANK, []
    path = source.files.get(sentence_modules.NAME)
    if path is None:
        if not family.encodes:
            return None, [] if has_head(source.config) else [_HEADLESS]
        return MEAN, [
            Problem(
                f"no {sentence_modules.NAME} says how vectors are made: the mean of all tokens, as "
                "sentence-transformers does with such a model",
                fatal=False,
            )
        ]
    steps = sentence_modules.read(path)
    problems = _steps(steps, family) + _dense(source, steps, family) + _prompts(source)
    pooling = next((step for step in steps if step.kind == "Pooling"), None)
    if pooling is None:
        return (MEAN if family.encodes else None), problems
    mode, more = _mode(source.files, pooling)
    return mode, problems + more


def metadata(family: Family, pooling: int | None, files: Mapping[str, Path]) -> Metadata:
    """The key of a pooling, and the prompts of a model that makes vectors."""
    if pooling is None:
        return {}
    kept = {} if pooling == RANK else prompts_of(files).metadata()
    return {f"{family.arch}.pooling_type": u32(pooling)} | kept


def _steps(steps: list[VectorStep], family: Family) -> list[Problem]:
    """Steps that a GGUF cannot have, and that vectors of length 1 are made in any case."""
    allowed = {"Transformer", "Pooling", "Normalize", *family.steps}
    problems = [
        Problem(
            f"{sentence_modules.NAME} has the step {step.kind}",
            ", ".join(sorted(allowed)),
            "llama.cpp has no such step of this family: write an ONNX folder",
        )
        for step in steps
        if step.kind not in allowed
    ]
    if not any(step.kind == "Normalize" for step in steps):
        problems.append(
            Problem(
                f"{sentence_modules.NAME} does not bring vectors to length 1: llama.cpp's server "
                "and `kanna embed` do, which changes no cosine",
                fatal=False,
            )
        )
    return problems


def _dense(source: Source, steps: list[VectorStep], family: Family) -> list[Problem]:
    """Layers after pooling: each has its weights, and nothing but them."""
    problems: list[Problem] = []
    for step in steps if _DENSE in family.steps else ():
        if step.kind != _DENSE:
            continue
        name = f"{step.folder}/{sentence_modules.CONFIG}"
        if f"{step.folder}.linear.weight" not in source.tensors or name not in source.files:
            problems.append(
                Problem(
                    f"{sentence_modules.NAME} names {step.folder}, whose weights are not there",
                    f"{name} and {sentence_modules.WEIGHTS} beside it",
                    "fetch the folder again, with the folders inside it",
                )
            )
            continue
        activation = str(read_object(source.files[name]).values.get("activation_function", ""))
        if activation.rpartition(".")[2] not in ("", "Identity"):
            problems.append(
                Problem(
                    f"{name} has the activation {activation}",
                    "Identity, the only one llama.cpp computes after pooling",
                    _AGAIN,
                )
            )
    return problems


def prompts_of(files: Mapping[str, Path]) -> prompts.Prompts:
    """The prompts of a source; none where they are not pooled with the text."""
    path = files.get(prompts.FILE)
    if path is None or _left_out(files):
        return prompts.Prompts()
    return prompts.of_values(read_object(path))


def _left_out(files: Mapping[str, Path]) -> bool:
    """Whether tokens of a prompt are read and not pooled, which no runtime here does."""
    path = files.get(f"{_FOLDER}/{sentence_modules.CONFIG}")
    return path is not None and read_object(path).values.get("include_prompt") is False


def _prompts(source: Source) -> list[Problem]:
    """What the model was trained to find before a text."""
    if prompts.FILE in source.files and _left_out(source.files):
        return [
            Problem(
                f"{_FOLDER} pools without the tokens of prompts: prompts are left out",
                todo="whoever asks for vectors with a prompt asks sentence-transformers",
                fatal=False,
            )
        ]
    known = prompts_of(source.files)
    listed = [f"{name}: {text!r}" for name, text in known.texts.items() if text]
    if not listed:
        return []
    return [
        Problem(
            "the model expects a prompt before each text: "
            f"{', '.join(listed[:2])}{' …' if len(listed) > 2 else ''}",
            todo="`kanna embed --prompt NAME` puts it there; so does whoever asks another runtime",
            fatal=False,
        )
    ]


def split_off(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """Take layers after pooling out of a model's tensors: the files of their folders.

    Args:
        tensors: By Hugging Face name; those of `2_Dense` and the like leave it.
    """
    from safetensors.numpy import save

    files: dict[str, bytes] = {}
    for name in [n for n in tensors if n.partition(".")[0].endswith(f"_{_DENSE}")]:
        folder, _, own = name.partition(".")
        tensor = tensors.pop(name)
        values = np.ascontiguousarray(tensor.rows(0, num_rows(tensor)).reshape(tensor.shape))
        files[f"{folder}/{sentence_modules.WEIGHTS}"] = save({own: values})
        files[f"{folder}/{sentence_modules.CONFIG}"] = _json(
            {
                "in_features": tensor.shape[1],
                "out_features": tensor.shape[0],
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
            }
        )
    return files


def _mode(files: Mapping[str, Path], step: VectorStep) -> tuple[int | None, list[Problem]]:
    """The one pooling that a step's config.json names."""
    name = f"{step.folder}/{sentence_modules.CONFIG}"
    if name not in files:
        raise SourceError(
            f"{sentence_modules.NAME} names {name}, which is not there",
            expected="the config of the pooling",
            todo="fetch the folder again, with the folders inside it",
        )
    values = read_object(files[name]).values
    if "pooling_mode" in values:
        given = values["pooling_mode"]
        modes = [given] if isinstance(given, str) else list(given or ())
        known = [_NAMES[m] for m in modes if m in _NAMES]
    else:
        modes = [k.removeprefix("pooling_mode_") for k, on in values.items() if _is_mode(k) and on]
        known = [number for number, mode in _MODES.items() if mode in modes]
    if len(modes) == 1 and known:
        return known[0], []
    return None, [
        Problem(f"{name} pools by {', '.join(map(str, modes)) or 'nothing'}", _EXPECTED, _AGAIN)
    ]


def _is_mode(key: str) -> bool:
    return key.startswith("pooling_mode_")


def side_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """What a folder of a source keeps of sentence-transformers' files."""
    inside = [n for n in files if n.endswith(f"/{sentence_modules.CONFIG}")]
    return {name: files[name] for name in (*SIDE_FILES, *inside) if name in files}


def to_hf(model: Model) -> dict[str, bytes]:
    """The files that say how vectors are made, of a GGUF; none where it makes none of tokens."""
    pooling = vectors.pooling(model)
    if pooling not in _MODES:
        return {}
    width = model.whole("{arch}.embedding_length", least=1)
    config = {"word_embedding_dimension": width} | {
        f"pooling_mode_{mode}": number == pooling for number, mode in _MODES.items()
    }
    steps = [("", "Transformer"), (_FOLDER, "Pooling")]
    steps += [(f"{i}_{_DENSE}", _DENSE) for i in (2, 3) if f"dense_{i}.weight" in model.tensors]
    steps.append((f"{len(steps)}_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{_PACKAGE}.{kind}"}
        for i, (path, kind) in enumerate(steps)
    ]
    known = prompts.of_metadata(model.metadata)
    return ({prompts.FILE: known.file()} if known.texts else {}) | {
        sentence_modules.NAME: _json(modules),
        f"{_FOLDER}/{sentence_modules.CONFIG}": _json(config),
        "sentence_bert_config.json": _json(
            {
                "max_seq_length": model.whole("{arch}.context_length", least=1),
                "do_lower_case": False,
            }
        ),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
