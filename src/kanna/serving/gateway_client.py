"""Requests to a running gateway, for the command line."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

from kanna.errors import KannaError, UsageError

URL = "http://127.0.0.1:8000"
"""Where `kanna serve` listens by default."""
KEY = "KANNA_KEY"
"""The environment variable that may have the key."""


def request(
    url: str, path: str, key: str | None, body: dict[str, Any] | None = None, timeout: float = 600.0
) -> Any:
    """The JSON that a gateway answers.

    Args:
        url: Of the gateway.
        path: Of the route.
        key: None: $KANNA_KEY.
        body: Sent by POST; None: GET.
        timeout: In seconds.

    Raises:
        KannaError: The gateway is not there, or refuses.
    """
    key = key or os.environ.get(KEY, "")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no address of a gateway", expected=f"such as {URL}")
    headers = {
        "content-type": "application/json",
        **({"authorization": f"Bearer {key}"} if key else {}),
    }
    data = json.dumps(body).encode() if body is not None else None
    message = urllib.request.Request(url.rstrip("/") + path, data, headers)
    try:
        with urllib.request.urlopen(message, timeout=timeout) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        try:
            problem = json.loads(error.read())["error"]["message"]
        except (ValueError, KeyError, TypeError):
            problem = str(error)
        todo = (
            f"give a key with the scope that it takes: --key, or ${KEY}"
            if error.code in {401, 403}
            else ""
        )
        raise KannaError(f"the gateway says: {problem}", todo=todo) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        todo = "start one with `kanna serve`, or give its --url"
        raise KannaError(f"no gateway answers at {url}: {reason}", todo=todo) from None
