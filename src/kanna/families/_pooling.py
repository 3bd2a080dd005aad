"""How the states of a text's tokens become one vector: from and to sentence-transformers' files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import SourceError
from kanna.families._config import Config
from kanna.families.base import Family, Metadata, Problem
from kanna.formats import vectors
from kanna.formats.text_files import read_object
from kanna.formats.vectors import FIRST, LAST, MEAN, RANK
from kanna.model import Model, u32
from kanna.sources import sentence_modules
from kanna.sources.sentence_modules import Step

if TYPE_CHECKING:
    from kanna.sources import Source

_MODES = {MEAN: "mean_tokens", FIRST: "cls_token", LAST: "lasttoken"}
_NAMES = {"mean": MEAN, "cls": FIRST, "lasttoken": LAST}
_FOLDER, _NORMALIZE = "1_Pooling", "2_Normalize"
_PACKAGE = "sentence_transformers.models"
SIDE_FILES = (
    sentence_modules.NAME,
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
"""Files of sentence-transformers beside a model, that folders keep."""
_EXPECTED = "mean, cls or lasttoken, which llama.cpp computes"
_AGAIN = "write an ONNX folder, or pool the vectors of tokens yourself"


def pooling_of(source: Source, family: Family, c: Config) -> tuple[int | None, list[Problem]]:
    """How a source's vectors are made; None for a model that predicts tokens.

    Args:
        source: The source.
        family: Its family.
        c: Its config.

    Returns:
        A number of llama.cpp, and what stands against it or should be known.
    """
    if family.ranks(c):
        return RANK, []
    path = source.files.get(sentence_modules.NAME)
    if path is None:
        if not family.encodes:
            return None, []
        return MEAN, [
            Problem(
                f"no {sentence_modules.NAME} says how vectors are made: the mean of all tokens, as "
                "sentence-transformers does with such a model",
                fatal=False,
            )
        ]
    steps = sentence_modules.read(path)
    problems = _steps(steps, family)
    pooling = next((step for step in steps if step.kind == "Pooling"), None)
    if pooling is None:
        return (MEAN if family.encodes else None), problems
    mode, more = _mode(source.files, pooling)
    return mode, problems + more


def metadata(family: Family, pooling: int | None) -> Metadata:
    """The key of a pooling, and that nothing is predicted from what comes before alone."""
    return {} if pooling is None else {f"{family.arch}.pooling_type": u32(pooling)}


def _steps(steps: list[Step], family: Family) -> list[Problem]:
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


def _mode(files: Mapping[str, Path], step: Step) -> tuple[int | None, list[Problem]]:
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
    steps = [("", "Transformer"), (_FOLDER, "Pooling"), (_NORMALIZE, "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{_PACKAGE}.{kind}"}
        for i, (path, kind) in enumerate(steps)
    ]
    return {
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
