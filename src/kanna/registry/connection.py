"""HTTP to one registry, with what it may do held to limits.

Answers of unknown length are read up to a limit, nothing is sent to another server than the one
that was named, and a plain connection is made to this machine alone.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

from kanna import __version__
from kanna._util.whole_answers import WholeAnswer
from kanna.errors import RefusedError, SourceError
from kanna.registry.file_part import FilePart

CONNECT_SECONDS, ANSWER_SECONDS = 15.0, 60.0
ATTEMPTS = 5
MOST_TEXT = 4 << 20
"""Bytes of a manifest, a token or an error: registries allow manifests of 4 MiB."""
DOCKER_HUB: Mapping[str, str] = dict.fromkeys(
    ("docker.io", "index.docker.io"), "registry-1.docker.io"
)
"""The server behind the names that people and docker have for Docker Hub."""
_WAIT = 0.3
BROKEN = (OSError, http.client.HTTPException)
"""What a connection ends with when the network or the other side fails."""
_HOPELESS = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)

T = TypeVar("T")
Body = bytes | FilePart


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAnswer:
    """A small answer, read whole.

    Attributes:
        status: HTTP status.
        headers: By name in lower case.
        body: At most MOST_TEXT bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def base_url(host: str) -> str:
    """The address of a registry: HTTPS, and plain HTTP on this machine alone."""
    name = urlsplit(f"//{host}").hostname or ""
    return f"{'http' if is_loopback(name) else 'https'}://{DOCKER_HUB.get(host, host)}"


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", _port(parts)


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = -1
    return port or {"http": 80, "https": 443}.get(parts.scheme, -1)


def open_connection(url: str) -> http.client.HTTPConnection:
    """A connection to the server of an address, by the proxy that the environment names."""
    scheme, host, port = origin(url)
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
    context = ssl.create_default_context()
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(host):
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=context)
    through = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    connection = http.client.HTTPSConnection(
        through.hostname or "", _port(through), timeout=CONNECT_SECONDS, context=context
    )
    connection.set_tunnel(host, port)
    return connection


def send(
    connection: http.client.HTTPConnection,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: Body | None = None,
) -> http.client.HTTPResponse:
    """Send one request and return the beginning of its answer.

    Args:
        connection: To the server of the address.
        method: Such as GET.
        url: What is asked for.
        headers: Of the request.
        body: What is sent; a part of a file needs a Content-Length.
    """
    connection.response_class = WholeAnswer
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if connection.sock is None:
        connection.connect()
        if connection.sock is not None:
            connection.sock.settimeout(ANSWER_SECONDS)
    own = {"User-Agent": f"kanna/{__version__}", **headers}
    if isinstance(body, FilePart):
        connection.putrequest(method, target)
        for name, value in own.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.sock is not None
        body.send(connection.sock)
    else:
        connection.request(method, target, body=body, headers=own)
    return connection.getresponse()


def headers_of(response: http.client.HTTPResponse) -> dict[str, str]:
    """Headers by name in lower case."""
    return {name.lower(): value for name, value in response.getheaders()}


def read_small(response: http.client.HTTPResponse, what: str) -> bytes:
    """The whole answer, which must be small.

    Raises:
        RefusedError: It is larger than anything of its kind may be.
    """
    data = response.read(MOST_TEXT + 1)
    if len(data) > MOST_TEXT:
        raise RefusedError(f"{what} has more than {MOST_TEXT} bytes", expected="a small document")
    return data


def next_address(url: str, location: str, what: str) -> str:
    """Where an answer sends its reader, which must be the same server.

    Args:
        url: What was asked.
        location: What the answer names.
        what: What is fetched or sent, for the message.

    Raises:
        RefusedError: It is another server.
    """
    target = urljoin(url, location)
    if origin(target) != origin(url):
        raise RefusedError(
            f"the registry {urlsplit(url).netloc} sends {what} to {urlsplit(target).netloc[:100]}",
            expected="an answer of its own",
            todo="ask the operator of the registry, and name the server that holds the files",
        )
    return target


def is_public_store(url: str, target: str) -> bool:
    """Whether a redirect leads from a registry on HTTPS to a store on HTTPS that is no inner one.

    Large registries keep their files in such stores. No key is sent there, and every byte is held
    to its digest.

    Args:
        url: What was asked.
        target: Where the answer leads.
    """
    if urlsplit(url).scheme != "https" or urlsplit(target).scheme != "https":
        return False
    host = urlsplit(target).hostname or ""
    try:
        places = {entry[4][0] for entry in socket.getaddrinfo(host, 443)}
    except (OSError, UnicodeError):
        return False
    return bool(places) and all(
        ipaddress.ip_address(str(place).partition("%")[0]).is_global for place in places
    )


def tried(work: Callable[[], T], host: str) -> T:
    """The result of `work`, which is tried again when the connection breaks.

    Args:
        work: Asks a registry.
        host: Its name, for the message.

    Raises:
        SourceError: The registry cannot be reached.
    """
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except BROKEN as error:
            if isinstance(error, _HOPELESS) or attempt == ATTEMPTS - 1:
                raise unreachable(host, error) from error
            time.sleep(_WAIT * 2**attempt)
    raise AssertionError


def unreachable(host: str, error: BaseException) -> SourceError:
    """What a broken connection is for who asked."""
    return SourceError(
        f"the registry {host} cannot be reached: {str(error) or type(error).__name__}",
        expected=f"a registry at {base_url(host)}/v2/",
        todo="check the name and the network, then run the same command: it goes on from there",
    )
