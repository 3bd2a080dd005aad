"""Prompts with pictures: what a user gives, where it stands, and the engine that sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from kanna import runtimes
from kanna.errors import UnsupportedError, UsageError
from kanna.formats import pictures
from kanna.runtimes.base import SeeingEngine, TakesPictures
from kanna.runtimes.llama_tower import MARKER


def files(image: object, mmproj: str | Path | None) -> list[bytes]:
    """The files of pictures, checked by their headers.

    Args:
        image: A picture or a list of them: paths, bytes of files, images of Pillow.
        mmproj: What is to see them.

    Raises:
        UsageError: There is no tower that could see them, or one is not there.
        FormatError: One is no whole PNG or JPEG, or larger than is read here.
    """
    several = isinstance(image, (list, tuple))
    given = [*cast("Sequence[object]", image)] if several else [image]
    if given and mmproj is None:
        raise UsageError(
            "a picture was given, and no vision tower that could see it",
            expected="--mmproj, the GGUF of the tower",
            todo="kanna convert SRC -o mmproj.gguf --mmproj, of the model's checkpoint",
        )
    return [pictures.opened(one).data for one in given]


def placed(
    messages: Sequence[Mapping[str, Any]], count: int, *, apart: str
) -> list[dict[str, Any]]:
    """Messages in which every picture has its place: the user's first one, where none says so.

    Args:
        messages: A conversation.
        count: How many pictures there are.
        apart: What stands after each.
    """
    copied = [dict(message) for message in messages]
    if any(MARKER in str(message.get("content")) for message in copied):
        return copied
    first = next((m for m in copied if m["role"] == "user"), copied[0])
    first["content"] = (MARKER + apart) * count + str(first.get("content") or "")
    return copied


def opened(
    path: Path, tower: Path, adapters: Mapping[str, float], *, threads: int | None, context: int
) -> SeeingEngine:
    """The engine of an artefact and its tower; raises UnsupportedError where its runtime has none.

    Args:
        path: The model of text.
        tower: The mmproj.
        adapters: LoRA adapters with the scale of each.
        threads: None: one per physical core.
        context: Tokens of prompt and answer together.
    """
    runtime = runtimes.of(path)
    if not isinstance(runtime, TakesPictures):
        raise UnsupportedError(
            f"{path} runs in {runtime.title}, which reads no pictures here",
            todo="convert the model of text to a GGUF: kanna convert SRC -o model.gguf",
        )
    return runtime.open_seeing(path, tower, adapters, threads=threads, context=context)
