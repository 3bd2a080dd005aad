"""Calibration text: the built-in set, or the user's own files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.nearest import unreadable
from kanna.errors import FormatError, TemplateLimitError, UsageError
from kanna.model import Model
from kanna.tokenizer.chat import render

_ENDINGS = (".txt", ".jsonl")
FOLDER = Path(__file__).parent / "text"
LICENSE = "MIT, written for kanna"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text.

    Attributes:
        domain: The kind of text: for the built-in set prose, code, chat or languages.
        name: Name of its file.
        text: The text itself.
    """

    domain: str
    name: str
    text: str


def kinds(paths: Sequence[str | Path] | None) -> int:
    """How many kinds of text there are, which take turns; None: those of the built-in set."""
    if paths is not None:
        return max(1, len(paths))
    return len({p.stem.split("_")[0] for p in FOLDER.iterdir() if p.suffix in _ENDINGS})


def documents(paths: Sequence[str | Path] | None, model: Model) -> tuple[list[Document], str]:
    """The texts and the SHA-256 of all of them. None: the built-in set.

    .jsonl lines are {"messages": […]}, rendered with the model's own template, or {"text": …}; all
    else is plain text. Raises UsageError for a file that is empty, not UTF-8 or not what it says.
    """
    files = sorted(p for p in FOLDER.iterdir() if p.suffix in _ENDINGS) if paths is None else paths
    digest = hashlib.sha256()
    texts: list[Document] = []
    for file in files:
        path = Path(file)
        try:
            raw = path.read_bytes()
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path} is not UTF-8 text: {error}", expected="a text or JSON-lines file"
            ) from error
        except OSError as error:
            raise unreadable(
                path, error, UsageError, expected="a text or JSON-lines file"
            ) from error
        if "\0" in text:
            raise UsageError(
                f"{path} holds zero bytes: it is UTF-16, or no text",
                expected="UTF-8 text or JSON lines",
            )
        digest.update(raw)
        if path.suffix == ".jsonl":
            lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
            text = "\n\n".join(_line(path, n, line, model) for n, line in lines)
        if not text.strip():
            raise UsageError(
                f"{path} is empty", expected="some thousand words of the text the model will meet"
            )
        domain = path.stem.split("_")[0] if paths is None else path.name
        texts.append(Document(domain=domain, name=path.name, text=text))
    return texts, digest.hexdigest()


def _line(path: Path, number: int, line: str, model: Model) -> str:
    try:
        value: Any = json.loads(line)
        if isinstance(value, dict) and isinstance(value.get("text"), str):
            return value["text"]
        messages = value["messages"]
        assert isinstance(messages, list) and all(
            isinstance(m[k], str) for m in messages for k in ("role", "content")
        )
    except (AssertionError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{path}, line {number}: {line[:60]!r}",
            expected='{"text": …} or {"messages": [{"role": …, "content": …}]}',
        ) from None
    try:
        return conversation(messages, model)
    except TemplateLimitError:  # of every conversation alike
        raise
    except FormatError as error:
        if path.parent == FOLDER:
            return _plainly(messages)  # a template may be as particular as it likes
        raise UsageError(
            f"{path}, line {number}: {error}", expected="a conversation the model's template takes"
        ) from error


def conversation(messages: list[dict[str, str]], model: Model) -> str:
    """A conversation as the model would read it: by its template, or plainly when it has none.

    Raises FormatError when the template takes it neither as it is nor without a turn of the system.
    """
    template = model.meta("tokenizer.chat_template")
    if template is None:
        return _plainly(messages)
    tokens = model.meta("tokenizer.ggml.tokens", ())

    def token(kind: str) -> str:
        at = model.meta(f"tokenizer.ggml.{kind}_token_id")
        return str(tokens[int(at)]) if at is not None and 0 <= int(at) < len(tokens) else ""

    def rendered(turns: list[dict[str, str]]) -> str:
        return render(
            template, turns, bos=token("bos"), eos=token("eos"), add_generation_prompt=False
        )

    if len(messages) < 2 or messages[0]["role"] != "system":
        return rendered(messages)
    # Some templates know no system turn, or refuse it: what it says goes before the first question.
    first, *rest = messages[1:]
    folded = [{**first, "content": f"{messages[0]['content']}\n\n{first['content']}"}, *rest]
    if "system" not in template:
        return rendered(folded)
    try:
        return rendered(messages)
    except TemplateLimitError:
        raise
    except FormatError:
        return rendered(folded)


def _plainly(messages: list[dict[str, str]]) -> str:
    return "\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)
