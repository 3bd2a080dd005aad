"""HTTP to the server of a fleet, for operators and devices: Python's own library, and limits."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kanna import __version__
from kanna._util.addresses import parts_of
from kanna._util.whole_answers import WholeAnswer
from kanna.errors import KannaError, RefusedError, UsageError

URL = "http://127.0.0.1:8750"
KEY = "KANNA_FLEET_KEY"
"""The environment variable that may have the text of a key."""
MOST_TEXT = 64 << 20
"""Bytes of an answer that is JSON."""
_SECONDS = 30.0
BROKEN = (OSError, http.client.HTTPException)
"""What a connection ends with when the network or the other side fails."""


class UnreachableError(KannaError):
    """The server cannot be reached, or breaks off: later it may be there."""


class AnswerError(KannaError):
    """The server refuses.

    Attributes:
        status: Of HTTP.
    """

    status = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetServer:
    """Where a fleet is served, and who asks.

    Attributes:
        url: Its address.
        key_file: File with the key; None: $KANNA_FLEET_KEY.
        ca_file: Certificates that HTTPS is held to, in PEM; None: the system's.
        insecure_http: Send the key in plain HTTP to other machines, too.
    """

    url: str = URL
    key_file: str | Path | None = None
    ca_file: str | Path | None = None
    insecure_http: bool = False


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


class FleetConnection:
    """Requests to one server with one key.

    Args:
        server: Where and who.

    Raises:
        UsageError: The address, the key or the certificates cannot be used.
    """

    def __init__(self, server: FleetServer) -> None:
        parts = parts_of(server.url.strip())
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{server.url!r} is no address of a server", expected=f"such as {URL}")
        if parts.scheme == "http" and not (server.insecure_http or is_loopback(parts.hostname)):
            raise UsageError(
                f"{server.url} would get the key in plain text",
                expected="an address with https://",
                todo="or --insecure-http, on a network where everybody may have it",
            )
        self.name = f"{parts.scheme}://{parts.netloc}"
        self._host, self._base = parts.hostname, parts.path.rstrip("/")
        self._port = parts.port
        self._tls = _context(server.ca_file) if parts.scheme == "https" else None
        self._headers = {
            "Authorization": f"Bearer {_key(server.key_file)}",
            "User-Agent": f"kanna/{__version__}",
            "Accept-Encoding": "identity",
        }

    def _open(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=_SECONDS)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=_SECONDS, context=self._tls
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer; None for an empty one.

        Args:
            method: Such as GET.
            path: Of the route.
            body: Bytes as they are; anything else as JSON.

        Raises:
            UnreachableError: The server cannot be reached.
            AnswerError: It refuses.
        """
        with self.begin(method, path, body) as response:
            data = response.read(MOST_TEXT + 1)
            left = response.length
        if left and len(data) <= MOST_TEXT:
            raise UnreachableError(f"{self.name} broke off, {left} bytes before the end")
        if len(data) > MOST_TEXT:
            raise RefusedError(f"{self.name} answers more than {MOST_TEXT} bytes")
        if not data:
            return None
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise UnreachableError(f"{self.name} answers {path} with no JSON") from None

    @contextmanager
    def begin(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Generator[http.client.HTTPResponse]:
        """The beginning of an answer that is no refusal; arguments and errors as of `ask`."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        sent = (
            self._headers | ({"Content-Type": kind} if data is not None else {}) | (headers or {})
        )
        line = self._open()
        line.response_class = WholeAnswer
        try:
            line.request(method, self._base + path, body=data, headers=sent)
            response = line.getresponse()
            if response.status >= 300:
                raise _refusal(self.name, response)
            yield response
        except ssl.SSLCertVerificationError as error:
            raise UnreachableError(
                f"the certificate of {self.name} does not hold: {error.verify_message}",
                expected="one of the certificates in --ca-file, at the time of this clock",
            ) from error
        except BROKEN as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"{self.name} does not answer: {reason}") from error
        finally:
            line.close()


def _context(ca_file: str | Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{ca_file} holds no certificates: {error}", expected="certificates in PEM"
        ) from None


def _key(file: str | Path | None) -> str:
    """The text of a key, which must be one that a header can hold."""
    if file is None:
        text, place = os.environ.get(KEY, ""), f"${KEY}"
    else:
        try:
            with Path(file).open(encoding="ascii") as opened:
                text, place = opened.read(1000), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the key {file} cannot be read: {error}") from None
    text = text.strip()
    if not text.startswith("kanna-") or not text.isprintable() or " " in text:
        raise UsageError(
            f"{place} holds no key", expected="kanna-…", todo=f"give --key-file, or ${KEY}"
        )
    return text


def _refusal(name: str, response: http.client.HTTPResponse) -> KannaError:
    """An error of the server in its own words."""
    text, todo = f"HTTP {response.status}", ""
    try:
        error = json.loads(response.read(1 << 16))["error"]
        text, todo = str(error["message"])[:1000], str(error.get("todo", ""))[:1000]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    if response.status >= 500 or response.status in (408, 429):
        return UnreachableError(f"{name} says: {text}")
    refusal = AnswerError(f"{name} says: {text}", todo=todo)
    refusal.status = response.status
    return refusal


def quoted(name: str) -> str:
    """A name in a path."""
    return quote(name, safe="")
