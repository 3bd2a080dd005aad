"""Text of a model folder: its tokenizer.json, its chat template, and the ids that end an answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from kanna.errors import FormatError
from kanna.formats import folder_files
from kanna.formats.text_files import read_object
from kanna.serving.engines._chat_prompt import render_chat
from kanna.serving.engines._http_server import BadRequestError
from kanna.serving.engines._token_bytes import StreamDecoder, TokenBytes
from kanna.tokenizer import library, special_tokens, templates
from kanna.tokenizer.chat import render

_OWN_VARIABLES = {"template", "messages", "tools", "bos", "eos"}
"""Variables of a template that a request does not set by itself."""


class TextCodec:
    """Encodes prompts and decodes answers.

    Args:
        folder: With tokenizer.json.
        end_ids: Ids that end an answer, from the model's configuration; the tokenizer's own end
            token is added.

    Raises:
        FormatError: The folder has no tokenizer.json.
    """

    def __init__(self, folder: Path, end_ids: Sequence[int]) -> None:
        if not (folder / "tokenizer.json").is_file():
            raise FormatError(f"{folder} has no tokenizer.json", todo="convert the model again")
        with library.refusals(f"{folder}/tokenizer.json cannot be read"):
            self.tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        config, token_map = (
            read_object(path).values
            for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json")
        )
        named = special_tokens.settings(config, token_map)
        self.bos, self.eos = (
            special_tokens.text_of(named.get(f"{name}_token")) or "" for name in ("bos", "eos")
        )
        self.templates = templates.read(folder_files.files(folder), named)
        self.template = templates.choose(self.templates)
        eos_id = self.tokenizer.token_to_id(self.eos) if self.eos else None
        self.end_ids: frozenset[int] = frozenset(
            [*end_ids, *([] if eos_id is None else [int(eos_id)])]
        )
        added = self.tokenizer.get_added_tokens_decoder()
        self._added: dict[int, str] = {i: token.content for i, token in added.items()}
        self._special = frozenset[int](i for i, token in added.items() if token.special)
        self._bytes = TokenBytes(self.tokenizer, self._added)
        self._token_texts: dict[int, str] = {}

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Ids of a text; control tokens in it become their ids.

        Args:
            text: To encode.
            add_special: Add the tokens that the model wants at the beginning.
        """
        try:
            with library.refusals("the model's tokenizer cannot split this text"):
                return list(self.tokenizer.encode(text, add_special_tokens=add_special).ids)
        except FormatError as error:
            raise BadRequestError(error.found) from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens too."""
        with library.refusals("the model's tokenizer cannot write this text"):
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def stream(self, *, continues: bool) -> StreamDecoder:
        """A decoder for the tokens of one answer.

        Args:
            continues: Whether it goes on with a text, so that the space before it belongs to it.
        """
        before = [self._anchor] if continues else []
        return StreamDecoder(self.tokenizer, self._bytes, self._special, before)

    def token_bytes(self, token: int) -> bytes:
        """What one token writes, which may be part of a character only."""
        data = self._bytes.of(token)
        return self.token_text(token).encode() if data is None else data

    def token_text(self, token: int) -> str:
        """The text of one token, with its leading space."""
        text = self._token_texts.get(token)
        if text is None:
            text = (
                self._added.get(token)
                or self.decode([self._anchor, token])[len(self._anchor_text) :]
            )
            self._token_texts[token] = text
        return text

    @cached_property
    def _anchor(self) -> int:
        """A plain token to stand before another: alone, some decoders drop its leading space."""
        return self.encode("a", add_special=False)[-1]

    @cached_property
    def _anchor_text(self) -> str:
        return self.decode([self._anchor])

    def apply_template(self, body: dict[str, Any]) -> str:
        """A chat request through the model's template.

        Raises:
            BadRequestError: There is no template.
            FormatError: The template fails.
        """
        template = templates.choose(self.templates, body.get("tools"))
        if not template:
            raise BadRequestError("the model has no chat template: ask for a completion")
        options = body.get("chat_template_kwargs")
        options = (
            {k: v for k, v in options.items() if k not in _OWN_VARIABLES}
            if isinstance(options, dict)
            else {}
        )
        if body.get("tools"):
            options["tools"] = body["tools"]
        messages = [m | {"content": _plain_text(m.get("content"))} for m in body["messages"]]

        def fill(messages: list[dict[str, Any]]) -> str:
            return render(template, messages, bos=self.bos, eos=self.eos, **options)

        return render_chat(fill, messages, has_developer="developer" in template)

    def encode_chat(self, body: dict[str, Any]) -> list[int]:
        """Ids of a chat request; a template that writes BOS itself does not get a second one."""
        text = self.apply_template(body)
        return self.encode(text, add_special=not (self.bos and text.startswith(self.bos)))


def _plain_text(content: Any) -> Any:
    """Parts of a message as one text; raises BadRequestError for pictures and sounds."""
    if not isinstance(content, list):
        return "" if content is None else content
    if others := [part.get("type") for part in content if part.get("type") != "text"]:
        raise BadRequestError(
            f"a message holds a part of type {others[0]!r}, this model reads text alone"
        )
    return "".join(part["text"] for part in content)
