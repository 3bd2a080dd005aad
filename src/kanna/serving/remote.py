"""A running gateway, asked from the command line."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

from kanna.errors import KannaError, UsageError

URL = "http://127.0.0.1:8000"
KEY = "KANNA_KEY"


def ask(
    url: str, path: str, key: str | None, body: dict[str, Any] | None = None, timeout: float = 600.0
) -> Any:
    """The JSON at a path of the gateway at `url`; POST when there is a body.

    Args:
        key: Or $KANNA_KEY. Raises KannaError for a gateway that is not there or refuses.
    """
    key = key or os.environ.get(KEY, "")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no address of a gateway", expected=f"such as {URL}")
    headers = {
        "content-type": "application/json",
        **({"authorization": f"Bearer {key}"} if key else {}),
    }
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url.rstrip("/") + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        try:
            said = json.loads(error.read())["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = str(error)
        todo = (
            f"give a key with the scope that it takes: --key, or ${KEY}"
            if error.code in {401, 403}
            else ""
        )
        raise KannaError(f"the gateway says: {said}", todo=todo) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        todo = "start one with `kanna serve`, or give its --url"
        raise KannaError(f"no gateway answers at {url}: {why}", todo=todo) from None
