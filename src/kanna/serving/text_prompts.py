"""What goes before texts that become vectors: the prompts that a model was trained with."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from kanna.errors import KannaError, UsageError
from kanna.formats import prompts
from kanna.formats.prompts import Prompts
from kanna.serving.problems import ApiError

_TYPES = {
    "query": ("query", "search_query"),
    "search_query": ("query", "search_query"),
    "document": ("document", "passage", "search_document"),
    "passage": ("passage", "document", "search_document"),
    "search_document": ("document", "passage", "search_document"),
}
"""`input_type` of other services → names of prompts that mean the same."""


def put(path: Path, body: dict[str, Any]) -> None:
    """Put the prompt that a request names, or the model's default, before each text of its input.

    Args:
        path: The model.
        body: Of the request; the fields that name a prompt are taken out.

    Raises:
        ApiError: 400: the model has no such prompt, or the input is token ids.
    """
    name, kind = body.pop("prompt_name", None), body.pop("input_type", None)
    known = _prompts(path, path.stat().st_mtime_ns)
    if name is None and kind is not None:
        name = next((n for n in _TYPES.get(kind, (kind,)) if n in known.texts), None)
        if name is None and known.texts:
            raise ApiError(
                400,
                f"input_type: the model has no prompt for {kind!r}; it has "
                + ", ".join(known.texts),
                param="input_type",
            )
    try:
        before = known.text(name)
    except UsageError as error:
        raise ApiError(
            400, f"prompt_name: {error.found}; it has {error.expected}", param="prompt_name"
        ) from None
    if not before:
        return
    given = body["input"]
    texts = [given] if isinstance(given, str) else given
    if all(isinstance(text, str) for text in texts):
        body["input"] = [before + text for text in texts]
    elif name is not None:
        raise ApiError(400, "a prompt goes before texts, and the input is token ids", param="input")


@lru_cache(64)
def _prompts(path: Path, mtime_ns: int) -> Prompts:
    """The prompts of a model; `mtime_ns` is part of the key: they are read once per version."""
    try:
        return prompts.of_artefact(path)
    except (KannaError, OSError):  # the engine says better what is wrong with the file
        return Prompts()
