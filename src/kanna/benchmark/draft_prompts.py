"""Prompts after which guesses of a drafter are counted: one JSON object per line of a file.

`{"prompt": "…", "tokens": 48}` is text, which the model's tokenizer splits; `{"ids": […],
"tokens": 12}` are tokens, as `kanna adapt --draft` writes them. `tokens` is how many the model
writes after the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kanna._util.typed import TypedObject, listed, text, whole
from kanna.errors import UsageError
from kanna.formats.text_files import read_text

PROMPT = "The plane takes a shaving so thin that light passes through it, and"
TOKENS = 48
"""Tokens that are written after a prompt that does not say how many."""
_IDS = listed(whole(), 1 << 20)
_FORM = '{"prompt": "…"} in every line, or {"ids": […]}, with "tokens" to write or without'


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPrompt:
    """A prompt.

    Attributes:
        text: Its text; "" where it is given in tokens.
        ids: Its tokens; [] where it is given as text.
        tokens: How many are written after it.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list[int])
    tokens: int = TOKENS

    def to_json(self) -> str:
        """The prompt as a line of such a file."""
        given: dict[str, Any] = {"ids": self.ids} if self.ids else {"prompt": self.text}
        return json.dumps(given | {"tokens": self.tokens}, ensure_ascii=False)

    def tokenized(self, tokenize: Callable[..., list[int]], vocabulary: int) -> list[int]:
        """Its tokens.

        Args:
            tokenize: Of an engine, see `Engine.tokenize`.
            vocabulary: Tokens that the model knows.

        Raises:
            UsageError: It has a token that the model has not.
        """
        if (largest := max(self.ids, default=0)) >= vocabulary:
            raise UsageError(
                f"a draft prompt has the token {largest}, the model {vocabulary:,} tokens",
                expected="prompts in tokens of this model",
                todo="give the file that was written beside an adapter of this model",
            )
        return self.ids or tokenize(self.text, add_bos=True, special=True)


def asked(file: str | None, tokens: int) -> list[DraftPrompt]:
    """The prompts of a file, or the usual one.

    Args:
        file: A .jsonl file, or None.
        tokens: How many are written after the usual prompt.
    """
    return [DraftPrompt(text=PROMPT, tokens=tokens)] if file is None else read(Path(file))


def read(path: Path) -> list[DraftPrompt]:
    """The prompts of a file.

    Args:
        path: A .jsonl file.

    Raises:
        UsageError: It has none, or a line is something else; names the line.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", expected=f"a file with {_FORM}")
    lines = read_text(path).splitlines()
    made = [_prompt(line, f"{path} line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not made:
        raise UsageError(f"{path} holds no prompt", expected=_FORM)
    return made


def _prompt(line: str, where: str) -> DraftPrompt:
    try:
        values: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}", expected=_FORM) from None
    if not isinstance(values, dict) or ("prompt" in values) == ("ids" in values):
        raise UsageError(f"{where} is no prompt", expected=_FORM)
    given = TypedObject(cast("dict[str, Any]", values), where, todo=f"write {_FORM}")
    made = DraftPrompt(
        text=given.get("prompt", text(), ""),
        ids=given.get("ids", _IDS, list[int]()),
        tokens=given.get("tokens", whole(1, 4096), TOKENS),
    )
    if not (made.text.strip() or made.ids):
        raise UsageError(f"{where} is an empty prompt", expected=_FORM)
    return made


def room(prompts: Sequence[DraftPrompt]) -> int:
    """Tokens of context that the longest of them needs, what is written included.

    Args:
        prompts: The prompts; a byte of text is a token at most.
    """
    return max(max(len(p.ids), len(p.text.encode()) + 8) + p.tokens for p in prompts)
