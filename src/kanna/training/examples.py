"""Training data as people have it: chats, prompts with completions, texts; each line checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from kanna._util.arguments import several
from kanna._util.nearest import absent
from kanna.errors import NotFoundError, UsageError
from kanna.training import tables
from kanna.training.messages import (
    FORMS,
    LINE_TODO,
    list_of,
    message_of,
    share_gpt,
    tools_of,
)

_PART = 2000
"""Characters of a plain text that are one example, about."""
MOST_BYTES = 1 << 30
HELD_OUT = "held-out.jsonl"
"""Beside an adapter: the examples that judged it and were not learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One conversation, prompt with completion, or text.

    Attributes:
        where: File and line.
        messages: A conversation; [] for a text.
        tools: Tools that the conversation may call.
        prompt: What is given, and not learned.
        text: What is learned, where it is no conversation.
    """

    where: str
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    prompt: str = ""
    text: str = ""

    def to_json(self) -> str:
        """The example as a line of JSON, which `read` reads."""
        if self.messages:
            more = {"tools": list(self.tools)} if self.tools else {}
            return json.dumps({"messages": list(self.messages), **more}, ensure_ascii=False)
        if self.prompt:
            pair = {"prompt": self.prompt, "completion": self.text}
            return json.dumps(pair, ensure_ascii=False)
        return json.dumps({"text": self.text}, ensure_ascii=False)

    def words(self) -> str:
        """Its text, without instructions of the system, which many examples share."""
        if not self.messages:
            return f"{self.prompt} {self.text}"
        kept = [m for m in self.messages if m["role"] not in ("system", "developer")]
        return " ".join(f"{m.get('content') or ''} {m.get('tool_calls') or ''}" for m in kept)


class Record(Protocol):
    """One line of data: an example, or a pair of preferences."""

    @property
    def where(self) -> str:
        """File and line."""
        ...

    def to_json(self) -> str:
        """The same as a line of JSON."""
        ...

    def words(self) -> str:
        """What near duplicates are told by: questions and answers."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(slots=True, kw_only=True)
class Examples(Generic[R]):
    """What was read.

    Attributes:
        examples: Each once.
        duplicates: Examples that were there before, and are left out.
        files: Names of the files.
    """

    examples: list[R]
    duplicates: int = 0
    files: list[str] = field(default_factory=list[str])


def read(data: str | Path | Sequence[str | Path]) -> Examples[Example]:
    """Read training data.

    Args:
        data: Files and folders of them: .jsonl, .parquet and .arrow of chats, of prompts with
            completions, of texts; and .txt and .md.

    Raises:
        UsageError: A file or a line is none of these; names the line.
    """
    kinds = (".jsonl", *tables.SUFFIXES, ".txt", ".md")
    return gather(data, kinds, _example, FORMS, parts=_parts)


def gather(
    data: str | Path | Sequence[str | Path],
    kinds: Sequence[str],
    one: Callable[[dict[str, Any], str], R],
    forms: str,
    *,
    parts: Callable[[Path], Iterator[R]] | None = None,
) -> Examples[R]:
    """Read records from files and folders, each once.

    Args:
        data: The files and folders.
        kinds: Suffixes of files that are read.
        one: Makes a record of an object and the place of its line.
        forms: What a line may be, in words.
        parts: Makes records of a file that has neither lines nor rows.

    Raises:
        UsageError: A file or a line is none of these; names the line.
    """
    files = [path for given in several(data) for path in _files(Path(given), kinds, forms)]
    if not files:
        raise UsageError("no training data was named", expected=f"a {_either(kinds)} file")
    unique: dict[str, R] = {}
    count = 0
    for path in files:
        for record in _records(path, one, forms, parts):
            count += 1
            unique.setdefault(record.to_json(), record)
    if not unique:
        raise UsageError(
            f"{files[0]} holds no example",
            expected=f"lines such as {forms}",
            todo="write some hundred of them, or name the file that has them",
        )
    return Examples(
        examples=list(unique.values()),
        duplicates=count - len(unique),
        files=[path.name for path in files],
    )


def _records(
    path: Path,
    one: Callable[[dict[str, Any], str], R],
    forms: str,
    parts: Callable[[Path], Iterator[R]] | None,
) -> Iterator[R]:
    """Every record of a file."""
    if path.suffix in tables.SUFFIXES:
        return (one(*row) for row in tables.rows(path))
    if parts is None or path.suffix == ".jsonl":
        return (one(*line) for line in _lines(path, forms))
    return parts(path)


def _either(kinds: Sequence[str]) -> str:
    return " or ".join([", ".join(kinds[:-1]), kinds[-1]] if kinds[1:] else kinds)


def _files(path: Path, kinds: Sequence[str], forms: str) -> list[Path]:
    if path.is_dir():
        path = tables.split_of(path)
        inside = sorted(p for p in path.iterdir() if p.suffix in kinds and tables.is_data(p))
        if not inside:
            raise UsageError(
                f"{path} holds no {_either(kinds)} file",
                expected=f"text, or lines such as {forms}",
                todo="name the files, or the folder that they are in",
            )
        return inside
    if not path.is_file():
        raise NotFoundError(f"the training data {absent(path)}", todo="check the path")
    if path.suffix not in kinds:
        raise UsageError(
            f"{path} is no {_either(kinds)} file",
            expected=f"lines such as {forms}" if len(kinds) == 1 else f"text, or {forms}",
            todo="write one JSON object per line, and call the file .jsonl",
        )
    return [path]


def _text(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} has more than a gigabyte", todo="give a part of it")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text: byte {error.start:,} is {error.object[error.start]:#04x}",
            expected="UTF-8",
            todo="save it as UTF-8: iconv -f LATIN1 -t UTF-8, where it is in Latin-1",
        ) from None


def _parts(path: Path) -> Iterator[Example]:
    """A plain text, cut between paragraphs."""
    part, begin = "", 1
    line = 1
    for paragraph in _text(path).split("\n\n"):
        if part and len(part) + len(paragraph) > _PART:
            yield Example(where=f"{path.name}:{begin}", text=part)
            part, begin = "", line
        part += ("\n\n" if part else "") + paragraph.strip("\n")
        line += paragraph.count("\n") + 2
    if part.strip():
        yield Example(where=f"{path.name}:{begin}", text=part)


def _lines(path: Path, forms: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every object of a .jsonl file, and its place."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            at = (
                f"{error.msg}, column {error.colno}"
                if isinstance(error, JSONDecodeError)
                else error
            )
            raise UsageError(
                f"{where} is not JSON: {at}",
                expected=forms,
                todo="write each object on one line of its own",
            ) from None
        if not isinstance(value, dict):
            raise UsageError(f"{where} is no object", expected=forms, todo=LINE_TODO)
        yield cast(dict[str, Any], value), where


def _example(value: dict[str, Any], where: str) -> Example:
    if "chosen" in value or "rejected" in value:
        raise UsageError(
            f"{where} is a pair of preferences",
            expected=FORMS,
            todo="learn from pairs with --objective dpo, or give the chosen answers alone",
        )
    if "conversations" in value and "messages" not in value:
        value = share_gpt(value, where)
    if "messages" in value:
        messages = [
            message_of(m, where, i) for i, m in enumerate(list_of(value, "messages", where))
        ]
        if not any(m["role"] == "assistant" for m in messages):
            raise UsageError(
                f"{where} has no message of the assistant",
                expected="an answer to learn",
                todo="add the answer, or remove the line",
            )
        return Example(where=where, messages=messages, tools=tools_of(value, where))
    for key in ("prompt", "completion", "text"):
        if key in value and not isinstance(value[key], str):
            raise UsageError(f"{where} has a {key} that is no text", expected=FORMS, todo=LINE_TODO)
    if "text" in value:
        text = value["text"]
    elif "prompt" in value and "completion" in value:
        text = value["completion"]
    else:
        raise UsageError(
            f"{where} has the keys {', '.join(value) or 'none'}",
            expected=FORMS,
            todo="rename the keys, or remove the line",
        )
    if not text.strip():
        raise UsageError(f"{where} is empty", expected="a text to learn", todo="remove the line")
    return Example(
        where=where, prompt=value.get("prompt", "") if "text" not in value else "", text=text
    )
