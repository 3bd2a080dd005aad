"""What the source's own library makes of its tokenizer: the judge of what a conversion wrote."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna._util import library_answers, own_files
from kanna._util.digest import sha256
from kanna._util.kept_process import ask_kept
from kanna.sources.packages import cache_dir
from kanna.tokenizer import files, library
from kanna.tokenizer.corpus import CONVERSATIONS, CORPUS, PLAIN

if TYPE_CHECKING:
    from kanna.sources import Source

TEXTS = (*PLAIN, *CORPUS)
_MOST_CONTROLS = 24
_KEPT = 64
_FRAME = 2
"""Tokens that frame a text at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryReading:
    """A tokenizer as transformers reads it.

    Attributes:
        name: The library and its version.
        kind: The class of the tokenizer.
        ids: Of each text, framed.
        chat_ids: Of each rendered conversation, not framed.
        rendered: A conversation's text, or the error; {} without a template.
        tokenizer_json: What it would save, of files without tokenizer.json.
        bos: Id of the token that begins a text.
        eos: Id of the token that ends a text.
    """

    name: str
    kind: str
    ids: list[list[int]]
    chat_ids: dict[str, list[int]]
    rendered: list[dict[str, str]]
    tokenizer_json: str
    bos: int | None
    eos: int | None

    @property
    def is_empty(self) -> bool:
        """Whether it found no vocabulary: a file under a name that its class does not look for."""
        return not any(len(ids) > _FRAME for ids in self.ids)


def read_by_library(
    files_by_name: Mapping[str, Path], texts: Sequence[str] = TEXTS
) -> LibraryReading | str:
    """The tokenizer by transformers; the reason, where it is not here or cannot read it.

    Read once per set of files: the answer is kept in the cache folder.

    Args:
        files_by_name: Side files of a model by name, config.json among them.
        texts: What is tokenized.
    """
    if importlib.util.find_spec("transformers") is None:
        return "transformers is not installed"
    kept = files.side_files(files_by_name)
    if "config.json" in files_by_name:
        kept["config.json"] = files_by_name["config.json"]
    task = {"texts": list(texts), "conversations": [list(c) for c in CONVERSATIONS]}
    versions = [importlib.metadata.version(p) for p in ("transformers", "tokenizers")]
    digests = {name: sha256(path) for name, path in sorted(kept.items())}
    return library_answers.answer(
        cache_dir() / "tokenizer-readings",
        [versions, digests, task],
        lambda: _ask(kept, task),
        lambda answer: LibraryReading(**answer),
        most=_KEPT,
    )


def _ask(kept: Mapping[str, Path], task: dict[str, Any]) -> dict[str, Any]:
    """The answer of a process that sees the files of the tokenizer and no others."""
    with own_files.scratch() as folder:
        for name, path in kept.items():
            there = folder / name
            there.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, there)
        return ask_kept(
            "kanna.tokenizer.reference_worker", {"folder": str(folder), **task}, "transformers"
        )


def own_tokenizer(source: Source) -> Any:
    """The tokenizer in tokenizer.json, by the library of that file; None where there is none."""
    if files.TOKENIZER not in source.files:
        return None
    from tokenizers import Tokenizer

    with library.refusals(f"{files.TOKENIZER} cannot be read"):
        tokenizer: Any = Tokenizer.from_file(str(source.files[files.TOKENIZER]))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def control_texts(tokens: Sequence[str]) -> list[str]:
    """Texts with words and spaces beside added tokens, where prefixes and stripping show.

    A token with the mark of a space in it is tried with a space in its place too.
    """
    spaced = [t.replace("▁", " ") for t in tokens if "▁" in t]
    tried = [*spaced[:_MOST_CONTROLS], *tokens[:_MOST_CONTROLS]]
    return [f"{t}user\nHi there{t}\n{t} so{t}." for t in tried]
