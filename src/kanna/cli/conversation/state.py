"""What was said so far, with the options of the next answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna._util import atomic
from kanna._util.nearest import unreadable
from kanna.errors import SourceError, UsageError

ROLES = ("system", "user", "assistant")
_EXPECTED = "a conversation that /save or `kanna chat --json` wrote"


@dataclass(slots=True, kw_only=True)
class Conversation:
    """One conversation.

    Attributes:
        model: What answers, as it was named.
        system: What comes first; empty: nothing.
        turns: Messages of the user and of the model; `images` are the files a message shows.
        images: Files of pictures that the next message shows.
        choices: Options of the next answer, by the names of `kanna.chat`.
    """

    model: str
    system: str = ""
    turns: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    images: list[str] = field(default_factory=list[str])
    choices: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All of it, as it is kept."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.turns]

    def asked(self, text: str) -> tuple[list[dict[str, str]], list[str]]:
        """What the model is asked when the user says `text`.

        Returns:
            Messages, with a mark where each picture stands; files of the pictures in that order.
        """
        from kanna.runtimes.llama_tower import MARKER

        all_of_it = [*self.messages, self.next(text)]
        messages = [
            {
                "role": m["role"],
                "content": f"{MARKER}\n" * len(m.get("images", [])) + m["content"],
            }
            for m in all_of_it
        ]
        return messages, [image for m in all_of_it for image in m.get("images", [])]

    def next(self, text: str) -> dict[str, Any]:
        """The message of the user with that text, and the pictures that wait for it."""
        images = {"images": list(self.images)} if self.images else {}
        return {"role": "user", "content": text, **images}

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints and `/save` writes."""
        return {"model": self.model, "messages": self.messages}

    def save(self, path: Path) -> None:
        """Write the conversation; raises UsageError where another kind of file would be lost."""
        if path.exists():
            try:
                _read(path)
            except SourceError:
                raise UsageError(f"{path} is something else", todo="take another name") from None
        try:
            atomic.write_json(path, self.to_dict())
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None

    def load(self, path: Path) -> None:
        """Go on with a saved conversation; raises SourceError, and then nothing has changed."""
        messages = _read(path)
        self.system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        self.turns = [m for m in messages if m["role"] != "system"]
        self.images.clear()


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error, SourceError) from None
    except (ValueError, RecursionError):
        raise SourceError(f"{path} is no JSON", expected=_EXPECTED) from None
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise SourceError(f"{path} holds no messages", expected=_EXPECTED)
    return [{key: m[key] for key in ("role", "content", "images") if key in m} for m in messages]


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in ROLES
        and isinstance(value.get("content"), str)
        and isinstance(images := value.get("images", []), list)
        and all(isinstance(image, str) for image in images)
    )
