"""Whose token ids an evaluation scores: those of the source's own library, where it is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kanna.errors import GateError
from kanna.runtimes.base import Engine
from kanna.sources import Source
from kanna.tokenizer import library
from kanna.tokenizer.reference import own_tokenizer

_SAMPLE = 50_000
"""Characters that are compared: whole texts of megabytes take seconds."""
_MOST_DIFFERING = 0.05
"""Share of lines that may get other ids: more is another tokenizer, less a known difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """How the text of an evaluation becomes ids.

    Attributes:
        ids: Ids of a text, framed, control tokens in it taken for text.
        owner: Whose they are.
        notes: That the source's own library was not asked.
    """

    ids: Callable[[str], list[int]]
    owner: str
    notes: list[str]


def of_source(source: Source, engine: Engine) -> Tokenization:
    """The tokenization of a source.

    Args:
        source: The reference of an evaluation.
        engine: That reference in its runtime, whose ids are taken where no library reads the
            source's tokenizer.
    """
    own = own_tokenizer(source) if source.kind == "hf" else None
    if own is None:
        notes = [
            f"token ids are those of {engine.path.name}: there is no tokenizer.json that the "
            "source's own library reads"
        ]
        return Tokenization(
            ids=lambda text: engine.tokenize(text, add_bos=True),
            owner=str(engine.path),
            notes=notes if source.kind == "hf" else [],
        )
    own.encode_special_tokens = True

    def ids(text: str) -> list[int]:
        with library.refusals("the source's tokenizer cannot split a text"):
            return own.encode(text, add_special_tokens=True).ids

    return Tokenization(ids=ids, owner="the source's tokenizer", notes=[])


def compare(engine: Engine, tokens: Tokenization, text: str) -> str:
    """A note where an artefact tokenizes some lines of the text otherwise; "" where none.

    Raises:
        GateError: It does so with many: it has another tokenizer.
    """
    sample = text[:_SAMPLE]
    if engine.tokenize(sample, add_bos=True) == tokens.ids(sample):
        return ""
    lines = [line for line in sample.splitlines() if line.strip()]
    other = sum(engine.tokenize(line, add_bos=True) != tokens.ids(line) for line in lines)
    if other > _MOST_DIFFERING * len(lines):
        raise GateError(
            f"{engine.path} tokenizes the text differently from {tokens.owner}",
            expected="the same token ids",
            todo="compare a file with the source it was made from, or convert it again",
        )
    return (
        f"{engine.path.name} gives other token ids than {tokens.owner} for {max(other, 1)} of "
        f"{len(lines)} lines; all are scored on the ids of {tokens.owner}"
    )


def require_same_vocabulary(reference: Engine, engine: Engine) -> None:
    """Raise GateError where two models have vocabularies of other sizes."""
    if engine.vocab_size != reference.vocab_size:
        raise GateError(
            f"{engine.path} has a vocabulary of {engine.vocab_size} tokens",
            expected=f"{reference.vocab_size}, as {reference.path} has",
            todo="compare a file with the source it was made from",
        )
