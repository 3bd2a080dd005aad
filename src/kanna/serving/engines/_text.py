"""Text of a model folder: its tokenizer.json, its chat template, and the ids that end an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from kanna.errors import FormatError
from kanna.serving.engines._host import Refused
from kanna.tokenizer.chat import render


class Text:
    """eog: ids that end an answer, from the configuration and from the tokenizer's own end token."""

    def __init__(self, folder: Path, eog: Sequence[int]) -> None:
        if not (folder / "tokenizer.json").is_file():
            raise FormatError(f"{folder} has no tokenizer.json", todo="convert the model again")
        self.tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.bos, self.eos = (_named(config.get(f"{name}_token")) for name in ("bos", "eos"))
        template = folder / "chat_template.jinja"
        self.template: Any = (
            template.read_text("utf-8") if template.is_file() else config.get("chat_template")
        )
        if isinstance(self.template, list):  # several, by name
            self.template = next(
                (t["template"] for t in self.template if t["name"] == "default"), None
            )
        own = self.tokenizer.token_to_id(self.eos) if self.eos else None
        self.eog: frozenset[int] = frozenset([*eog, *([] if own is None else [int(own)])])
        self.added: dict[int, str] = {
            i: t.content for i, t in self.tokenizer.get_added_tokens_decoder().items()
        }
        self._pieces: dict[int, str] = {}

    @property
    def vocab_size(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str, *, frame: bool = True) -> list[int]:
        """Ids, control tokens in the text among them.

        Args:
            frame: With the beginning the model wants.
        """
        return list(self.tokenizer.encode(text, add_special_tokens=frame).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def stream(self) -> Spelling:
        return Spelling(self.tokenizer)

    def piece(self, token: int) -> str:
        """The text of one token, with its leading space."""
        found = self._pieces.get(token)
        if found is None:
            found = (
                self.added.get(token)
                or self.decode([self._anchor, token])[len(self._anchor_text) :]
            )
            self._pieces[token] = found
        return found

    @cached_property
    def _anchor(self) -> int:
        """A plain token to stand before another: alone, some decoders drop its leading space."""
        return self.encode("a", frame=False)[-1]

    @cached_property
    def _anchor_text(self) -> str:
        return self.decode([self._anchor])

    def conversation(self, body: dict[str, Any]) -> str:
        """A chat request through the model's template.

        Raises Refused when there is none, FormatError when it fails.
        """
        if not self.template:
            raise Refused("the model has no chat template: ask for a completion")
        messages = [m | {"content": _plain(m.get("content"))} for m in body["messages"]]
        more = body.get("chat_template_kwargs")
        more = (
            {k: v for k, v in more.items() if k not in {"messages", "tools"}}
            if isinstance(more, dict)
            else {}
        )
        tools = {"tools": body["tools"]} if body.get("tools") else {}
        return render(self.template, messages, bos=self.bos, eos=self.eos, **(more | tools))

    def chat(self, body: dict[str, Any]) -> list[int]:
        text = self.conversation(body)
        # A template that writes BOS itself does not get a second one.
        return self.encode(text, frame=not (self.bos and text.startswith(self.bos)))


class Spelling:
    """Text of tokens as they come: half a character waits for its other half."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._ids, self._shown = tokenizer, list[int](), 0
        self._decoder: Any = tokenizers.decoders.DecodeStream(skip_special_tokens=True)  # type: ignore[attr-defined]

    def step(self, token: int) -> str:
        self._ids.append(token)
        text = str(self._decoder.step(self._tokenizer, token) or "")
        self._shown += len(text)
        return text

    def rest(self) -> str:
        """What never became whole, as U+FFFD."""
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))[self._shown :]


def _named(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _plain(content: Any) -> Any:
    """Parts of a message as one text; raises Refused for pictures and sounds."""
    if not isinstance(content, list):
        return content
    if wrong := [p.get("type") for p in content if p.get("type") != "text"]:
        raise Refused(f"a message holds a part of type {wrong[0]!r}, this model reads text alone")
    return "".join(p["text"] for p in content)
