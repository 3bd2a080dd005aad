"""Tokenizer, special tokens and chat template of a model's folder, read without a runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanna._util.heap import give_back
from kanna._util.typed import TypedObject, whole
from kanna.errors import FormatError
from kanna.formats import folder_files
from kanna.formats.text_files import read_object
from kanna.tokenizer import library, special_tokens, templates

TOKENIZER = "tokenizer.json"
# What a decoder looks back at: enough for the bytes of one character and the space before a word.
_TAIL = 8


class FolderText:
    """The tokenizer of a folder: ids from text and back.

    Attributes:
        bos: Id of the token that begins a text, if there is one.
        eos: Id of the token that ends a text, if there is one.
        ends: Ids that end a generation, by the folder's own configuration.
        adds_bos: Whether `tokenize(add_bos=True)` puts `bos` first.
        chat_template: Jinja source, if the folder has one.
    """

    def __init__(self, folder: Path, configs: Sequence[Mapping[str, Any]]) -> None:
        from tokenizers import Tokenizer

        path = folder / TOKENIZER
        with library.refusals(f"{path} cannot be read"):
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        give_back()  # the parsed text, which takes more than what is made of it
        # Some encoders have the length they were trained at written into the tokenizer.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        named = special_tokens.settings(
            read_json(folder / "tokenizer_config.json"),
            read_json(folder / "special_tokens_map.json"),
        )
        configs = [*configs, read_json(folder / "generation_config.json")]
        self.bos = self._special_id("bos", named, configs)
        self.eos = self._special_id("eos", named, configs)
        self.ends = frozenset(special_tokens.end_ids(named, configs, self._tokenizer.token_to_id))
        start = self.tokenize("", add_bos=True)
        self.adds_bos = bool(start) and start[0] == self.bos
        self.chat_template = templates.choose(templates.read(folder_files.files(folder), named))

    def _special_id(
        self, kind: str, named: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]
    ) -> int | None:
        token = special_tokens.text_of(named.get(f"{kind}_token"))
        token_id = self._tokenizer.token_to_id(token) if token else None
        if token_id is not None:
            return int(token_id)
        ids = (i for c in configs for i in special_tokens.ids_of(c.get(f"{kind}_token_id")))
        return next(ids, None)

    def tokenize(self, text: str, *, add_bos: bool = False, special: bool = False) -> list[int]:
        """Token ids; see `Engine.tokenize`."""
        self._tokenizer.encode_special_tokens = not special
        with library.refusals(f"{TOKENIZER} cannot split a text"):
            return self._tokenizer.encode(text, add_special_tokens=add_bos).ids

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; see `Engine.detokenize`."""
        with library.refusals(f"{TOKENIZER} cannot write a text"):
            return self._tokenizer.decode(list(ids), skip_special_tokens=not special)

    def stream(self, before: Sequence[int], tokens: Iterator[int]) -> Iterator[str]:
        """Text of `tokens` as it becomes complete, as the continuation of the ids `before`.

        Bytes of one character may come in several tokens: they are held back, and become U+FFFD
        when nothing follows.
        """
        ids = list(before[-_TAIL:])
        start, end = 0, len(ids)  # the ids whose text came last: a decoder looks back at them
        for token in tokens:
            ids.append(token)
            old, new = self.detokenize(ids[start:end]), self.detokenize(ids[start:])
            if new.endswith("\ufffd") and len(ids) - end < _TAIL:
                continue
            yield new[len(old) :]
            start, end = end, len(ids)
        if end < len(ids):
            yield self.detokenize(ids[start:])[len(self.detokenize(ids[start:end])) :]


def trained_context(folder: Path) -> int | None:
    """Tokens the model of a Hugging Face or MLX folder was trained on, by its config.json."""
    config = read_json(folder / "config.json")
    inner = TypedObject.of(config, "config.json").part("text_config").values
    merged = TypedObject({**config, **inner}, "config.json")
    return merged.get("max_position_embeddings", whole(), None)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} when the file is absent. Raises FormatError for anything else."""
    try:
        return dict(read_object(path).values)
    except FormatError as error:
        raise FormatError(
            f"{path}: {error.found}", expected=error.expected, todo="convert again"
        ) from None
