"""Pictures in the messages of a chat: the picture itself, in the address of it, and no address.

Nothing is fetched for a client: an address of its choice may be one that it cannot reach itself.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from kanna.errors import FormatError
from kanna.formats import pictures
from kanna.serving.requests.scalars import refusal, show, wrong

TYPES = ("image_url", "input_image")
"""Types of parts that are pictures: of chats, and of OpenAI's responses."""
MOST = 16
"""Pictures of one request."""
_EXPECTED = "the picture itself, as data:image/png;base64,…"
_PLACE = "<picture>"


def to_part(part: dict[str, Any], place: str) -> dict[str, Any]:
    """A picture as engines get it, checked by its header.

    Args:
        part: As the client sent it.
        place: Where it stands, for errors.

    Raises:
        PydanticCustomError: It is an address, or no whole PNG or JPEG of a size that is read.
    """
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise refusal(f"{place}: {_EXPECTED}", url)
    if not url.startswith("data:"):
        raise wrong(
            f"{place}: {show(url)} is not fetched: addresses of clients are not followed here; "
            f"send {_EXPECTED}"
        )
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise refusal(f"{place}: {_EXPECTED}", url)
    try:
        data = base64.b64decode(text, validate=True)
        picture = pictures.checked(data, f"{place}: the picture")
    except (binascii.Error, ValueError):
        raise wrong(f"{place}: what follows base64, is not base64") from None
    except FormatError as error:
        todo = f"; {error.todo}" if error.todo else ""
        raise wrong(f"{error.found}, {error.expected} was expected{todo}") from None
    # Written again: what engines read is what was checked, under its own type.
    url = f"data:image/{picture.kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def in_body(body: dict[str, Any]) -> Iterator[str]:
    """The addresses of all pictures of a checked body."""
    for message in body.get("messages") or ():
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part["type"] == "image_url":
                yield part["image_url"]["url"]


def data_of(url: str) -> bytes:
    """The file in a checked address."""
    return base64.b64decode(url.partition(",")[2])


def without(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checked messages with a word in place of each picture."""
    return [
        message | {"content": "\n".join(part.get("text", _PLACE) for part in message["content"])}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]
