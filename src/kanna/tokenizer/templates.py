"""Chat templates where a folder keeps them: one text, or several by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna.errors import SourceError

FILE, FOLDER = "chat_template.jinja", "additional_chat_templates"
"""The main template's file, and the folder of the others, as transformers 5 writes them."""
DEFAULT, TOOLS = "default", "tool_use"


def read(files: Mapping[str, Path], settings: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name; `default` is the one that every conversation takes.

    Files come before what tokenizer_config.json says, as in transformers. A text alone is the
    default; a list of named ones and an object of them mean the same.

    Args:
        files: Side files of a model by name.
        settings: The object in tokenizer_config.json.

    Raises:
        SourceError: A file of templates cannot be read.
    """
    templates = {p.stem: _text(p) for p in additional(files)}
    if (path := files.get(FILE)) is not None:
        templates[DEFAULT] = _text(path)
    if templates:
        return templates
    given = settings.get("chat_template")
    if given is None and (path := files.get("chat_template.json")) is not None:
        given = _object(path).get("chat_template")
    return named(given)


def named(given: Any) -> dict[str, str]:
    """Templates by name from a text, a list of named ones, or an object of them."""
    if isinstance(given, str):
        return {DEFAULT: given}
    pairs: list[tuple[Any, Any]] = []
    if isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, list):
        pairs = [(t.get("name"), t.get("template")) for t in given if isinstance(t, Mapping)]
    return {n: t for n, t in pairs if isinstance(n, str) and isinstance(t, str)}


def choose(templates: Mapping[str, str], tools: Any = None) -> str | None:
    """The template of a conversation, with tools or without; None where there is none."""
    if tools and TOOLS in templates:
        return templates[TOOLS]
    return templates.get(DEFAULT)


def additional(files: Mapping[str, Path]) -> list[Path]:
    """The files of named templates, which lie in a folder beside the other side files."""
    folders = {path.parent / FOLDER for path in files.values()}
    return sorted(path for folder in folders for path in folder.glob("*.jinja"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SourceError(f"{path.name} cannot be read: {error}", todo="fetch it again") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path.name} is not JSON: {error}", todo="fetch it again") from error
    return value if isinstance(value, dict) else {}
