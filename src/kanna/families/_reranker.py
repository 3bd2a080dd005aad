"""Decoders that rank: a score is the chance of one of two words after a prompt (Qwen3-Reranker).

llama.cpp reads the rows of both words from `cls.output`, the prompt from a template named `rerank`,
and gives the chance of the first word.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from kanna.errors import KannaError, UnsupportedError
from kanna.families._config import Config
from kanna.families.base import Family, Metadata, Ranking
from kanna.families.stacked import Picked
from kanna.formats.text_files import read_text
from kanna.model import Tensor, ValueType, array, string

if TYPE_CHECKING:
    from kanna.sources import Source

HEAD = "cls.output.weight"


def ranking_of(source: Source, family: Family) -> Ranking | None:
    """How a source ranks, when it is published as a model that does; else None.

    Its config is that of any other model of the family: the name says what it was trained for.
    """
    ranking = family.ranking
    if ranking is None:
        return None
    named = (source.name, source.path.name, source.config.get("_name_or_path"), _title(source))
    names = [str(name).lower() for name in named if name]
    return ranking if any(ranking.name in name for name in names) else None


def _title(source: Source) -> str:
    """The first title of the model card; a card that cannot be read has none."""
    path, lines = source.files.get("README.md"), list[str]()
    if path is not None:
        with suppress(KannaError, OSError):
            lines = read_text(path).splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), "")


def metadata(family: Family, ranking: Ranking) -> Metadata:
    """The words, and the prompt before them."""
    return {
        f"{family.arch}.classifier.output_labels": array(list(ranking.words), ValueType.STR),
        "tokenizer.chat_template.rerank": string(ranking.prompt),
        "tokenizer.chat_templates": array(["rerank"], ValueType.STR),
    }


def with_head(
    tensors: Mapping[str, Tensor], ranking: Ranking, c: Config, tokens: Metadata
) -> dict[str, Tensor]:
    """The tensors of a decoder with the rows of both words, and without its other rows.

    Raises:
        UnsupportedError: The vocabulary has no such word, or no head.
    """
    listed = {text: i for i, text in enumerate(tokens["tokenizer.ggml.tokens"].value)}
    absent = [word for word in ranking.words if word not in listed]
    if absent:
        raise UnsupportedError(
            f"the vocabulary has no token {absent[0]!r}, whose chance is the score",
            expected=" and ".join(map(repr, ranking.words)),
            todo="fetch the tokenizer files again",
        )
    kept = dict(tensors)
    embedding = kept["token_embd.weight"]
    head = embedding if c.tied else kept.pop("output.weight", embedding)
    rows = np.array([listed[word] for word in ranking.words])
    kept[HEAD] = Picked(HEAD, head, (len(rows), head.shape[1]), rows)
    return kept


def refuse_way_back(model_tensors: Mapping[str, Any]) -> None:
    """Raise UnsupportedError for a model whose other rows of the head are not in its file."""
    if HEAD in model_tensors:
        raise UnsupportedError(
            "the GGUF of a decoder that ranks has two rows of its head",
            expected="a model with its whole head, as transformers reads it",
            todo="fetch the model as it was published",
        )
