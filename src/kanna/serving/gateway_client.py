"""Requests to a running gateway, for the command line."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

from kanna._util.addresses import parts_of
from kanna.errors import KannaError, UsageError

URL = "http://127.0.0.1:8000"
"""Where `kanna serve` listens by default."""
KEY = "KANNA_KEY"
"""The environment variable that may have the key."""


def address(url: str) -> str:
    """Where a gateway is, from what people type: a host and port, or a client's base URL.

    Raises:
        UsageError: It is neither.
    """
    text = url.strip()
    parts = parts_of(text if "://" in text else f"http://{text}")
    if (
        parts is None
        or parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.query
        or parts.fragment
    ):
        raise UsageError(f"{url!r} is no address of a gateway", expected=f"such as {URL}")
    base = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{base}"


def request(
    url: str,
    path: str,
    key: str | None,
    body: dict[str, Any] | None = None,
    *,
    scope: str = "metrics",
    timeout: float = 600.0,
) -> Any:
    """The JSON that a gateway answers.

    Args:
        url: Of the gateway, as `address` takes it.
        path: Of the route.
        key: None: $KANNA_KEY.
        body: Sent by POST; None: GET.
        scope: That the key needs, where one is asked for.
        timeout: In seconds.

    Raises:
        KannaError: The gateway is not there, or refuses.
    """
    key = key or os.environ.get(KEY, "")
    url = address(url)
    headers = {
        "content-type": "application/json",
        **({"authorization": f"Bearer {key}"} if key else {}),
    }
    data = json.dumps(body).encode() if body is not None else None
    message = urllib.request.Request(url + path, data, headers)
    try:
        with urllib.request.urlopen(message, timeout=timeout) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        try:
            problem = json.loads(error.read())["error"]["message"]
        except (ValueError, KeyError, TypeError):
            problem = str(error)
        todo = (
            f"`kanna keys create --name {scope} --scope {scope}` makes one where the gateway runs; "
            f"give it with --key, or ${KEY}"
            if error.code in {401, 403}
            else ""
        )
        raise KannaError(f"the gateway says: {problem}", todo=todo) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        todo = "start one with `kanna serve`, or give its --url"
        raise KannaError(f"no gateway answers at {url}: {reason}", todo=todo) from None
