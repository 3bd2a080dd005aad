"""Text of five kinds to score on, none of it calibration text.

WikiText-2 test comes from its package; prose, conversations, code and other languages were written
for these benchmarks.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.common import models

from kanna.calibration import texts
from kanna.model import Model
from kanna.sources import packages

FOLDER = Path(__file__).parent / "text"
KINDS = ("wikitext", "prose", "chat", "code", "languages")


def by_kind(model: Model, *, stories: bool) -> dict[str, str]:
    """The text of every kind, conversations in the chat template of `model`.

    Args:
        model: Whose chat template is used.
        stories: Take stories15M's own stories in the place of WikiText, which is noise to it.
    """
    result = {kind: _read(kind, model) for kind in KINDS[1:]}
    if stories:
        return {"stories": models.stories_text().read_text(encoding="utf-8")} | result
    return {KINDS[0]: packages.wikitext("test").read_text(encoding="utf-8")} | result


def files(model: Model, folder: Path, *, stories: bool) -> dict[str, Path]:
    """The same as files in `folder`."""
    result: dict[str, Path] = {}
    for kind, text in by_kind(model, stories=stories).items():
        result[kind] = folder / f"{kind}.txt"
        result[kind].write_text(text, encoding="utf-8")
    return result


def _read(kind: str, model: Model) -> str:
    if kind != "chat":
        return (FOLDER / f"{kind}.txt").read_text(encoding="utf-8")
    lines = (FOLDER / "chat.jsonl").read_text(encoding="utf-8").splitlines()
    conversations = [json.loads(line)["messages"] for line in lines]
    return "\n\n".join(texts.conversation(messages, model) for messages in conversations)
