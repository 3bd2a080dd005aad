"""Who asks a registry: the log-ins that docker and podman keep, and the tokens made of them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from kanna._util.typed import TypedObject, text
from kanna.errors import FormatError, RefusedError, SourceError
from kanna.formats.text_files import parse_json, read_object
from kanna.registry import connection

_CHALLENGE = re.compile(r'([A-Za-z_]+)="([^"]*)"')
_HUB_NAMES = ("https://index.docker.io/v1/", "docker.io")
"""Under which docker and podman keep the log-in of Docker Hub."""
_HUB_SERVERS = frozenset(connection.DOCKER_HUB.values())
_HELPER = re.compile("[A-Za-z0-9._-]+")


def authorization(host: str, challenge: str, repository: str, actions: str) -> str:
    """The header that answers a registry's challenge.

    Args:
        host: The registry.
        challenge: Its WWW-Authenticate.
        repository: What is asked for.
        actions: `pull`, or `pull,push`.

    Raises:
        SourceError: There is no log-in that it takes.
        RefusedError: It wants keys to be sent to a server without encryption.
    """
    scheme, _, rest = challenge.partition(" ")
    user = _log_in(host)
    if scheme.lower() == "basic":
        if user is None:
            raise _no_log_in(host)
        return _basic(*user)
    if scheme.lower() != "bearer":
        raise SourceError(
            f"the registry {host} wants {scheme[:40] or 'a log-in of no kind'}",
            expected="Basic or Bearer",
        )
    fields = dict(_CHALLENGE.findall(rest))
    realm = fields.get("realm", "")
    own = connection.origin(realm) == connection.origin(connection.base_url(host))
    if urlsplit(realm).scheme != "https" and not own:
        raise RefusedError(
            f"the registry {host} wants a log-in at {realm[:100]!r}", expected="HTTPS"
        )
    query = {"scope": f"repository:{repository}:{actions}"}
    if "service" in fields:
        query["service"] = fields["service"]
    url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
    return f"Bearer {_token(url, host, user)}"


def _token(url: str, host: str, user: tuple[str, str] | None) -> str:
    headers = {"Authorization": _basic(*user)} if user else {}

    def ask() -> tuple[int, bytes]:
        with closing(connection.open_connection(url)) as line:
            response = connection.send(line, "GET", url, headers)
            return response.status, connection.read_small(response, "a token")

    status, body = connection.tried(ask, host)
    if status != 200:
        raise _no_log_in(host)
    answer = TypedObject.of(parse_json(body.decode("utf-8", "replace"), "token"), "the token")
    token = answer.get("token", text(), "") or answer.get("access_token", text(), "")
    if not token or not token.isascii() or not token.isprintable():
        raise FormatError(f"the registry {host} gives no token", expected="a token")
    return token


def _no_log_in(host: str) -> SourceError:
    return SourceError(
        f"the registry {host} wants a log-in", todo=f"docker login {host}, or podman login {host}"
    )


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _files() -> Iterator[Path]:
    """Where docker and podman keep log-ins."""
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    yield Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"


def _log_in(host: str) -> tuple[str, str] | None:
    """User and password of a registry, or None."""
    names = [host, *_HUB_NAMES] if host in (*connection.DOCKER_HUB, *_HUB_SERVERS) else [host]
    for file, name in product(_files(), names):
        config = read_object(file, "log in again")
        helpers = config.part("credHelpers")
        helper = helpers.get(name, text(), "") or config.get("credsStore", text(), "")
        if helper and (user := _from_helper(helper, name)):
            return user
        auth = config.part("auths").part(name).get("auth", text(), "")
        if auth:
            try:
                user, colon, password = base64.b64decode(auth).decode().partition(":")
            except ValueError:
                user, colon, password = "", "", ""
            if not colon:
                raise FormatError(f"{file} has no log-in that can be read for {host}")
            return user, password
    return None


def _from_helper(helper: str, host: str) -> tuple[str, str] | None:
    """What docker's credential helper knows of a registry."""
    if not _HELPER.fullmatch(helper):
        return None
    try:
        run = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=host,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        answer = json.loads(run.stdout) if run.returncode == 0 else {}
        user, secret = answer.get("Username"), answer.get("Secret")
    except (OSError, ValueError, AttributeError, subprocess.TimeoutExpired):
        return None
    return (user, secret) if isinstance(user, str) and isinstance(secret, str) else None
