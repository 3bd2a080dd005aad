"""Tracking servers by their address: which are taken, whether they answer."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote

from kanna._util import extras
from kanna._util.addresses import parts_of
from kanna.errors import MissingError, SourceError, UsageError

EXTRA = "mlflow"
EXPECTED = "http://HOST:PORT, https://HOST or sqlite:///FILE"
TRACKERS = f"{EXPECTED} of MLflow, trackio or trackio:PROJECT"
"""What a run can be told to; models are registered at MLflow alone."""
_ANSWER = 10.0
"""Seconds a server has to take a connection."""
_PATIENCE = {
    # Its own are seven tries for four minutes, in which nothing would be trained.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # It prints addresses of runs on standard output, where --json writes.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def shown(address: str) -> str:
    """An address without the password that may stand in it."""
    parts = parts_of(address)
    if parts is None or not parts.netloc:
        return address
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def is_local(address: str) -> bool:
    """Whether it is a database on this machine."""
    return address.startswith("sqlite:")


def connect(address: str, *, expected: str = EXPECTED) -> Any:
    """MLflow's client of a server that answers, or of a database.

    Args:
        address: `http://`, `https://` or `sqlite:///FILE`.
        expected: Which addresses the error names.

    Raises:
        UsageError: It is no address of a tracking server.
        MissingError: The extra `mlflow` is not installed.
        SourceError: The server does not answer, or the database cannot be opened.
        RefusedError: KANNA_OFFLINE forbids to ask it.
    """
    parts = parts_of(address)
    if parts is None or not (_is_server(parts) or _is_database(parts)):
        raise UsageError(f"{shown(address)} is no tracking server", expected=expected)
    if missing := extras.missing(EXTRA):
        raise MissingError(f"tracking needs {', '.join(missing)}", todo=extras.command(EXTRA))
    if _is_server(parts):
        _require_answer(parts, address)
    elif not database(address).parent.is_dir():
        raise UsageError(f"{database(address).parent} does not exist", expected="its folder")
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingTypeStubs]

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        client = MlflowClient(tracking_uri=address, registry_uri=address)
        client.search_experiments(max_results=1)
    except Exception as error:  # whatever its stores and their drivers raise
        raise explained(error, address) from error
    return client


def database(address: str) -> Path:
    """The file of a database."""
    return Path(unquote(address.removeprefix("sqlite:///"))).absolute()


def explained(error: Exception, address: str) -> SourceError:
    """What a server or its library said, in a line.

    Args:
        error: What its library raised.
        address: Of the server.
    """
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return SourceError(
        f"the tracking server {shown(address)} refuses: {reason[:300]}",
        expected="an MLflow server, or a database of one",
        todo="start one: mlflow server --backend-store-uri sqlite:///runs.db",
    )


def _is_server(parts: SplitResult) -> bool:
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_database(parts: SplitResult) -> bool:
    return parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1


def _require_answer(parts: SplitResult, address: str) -> None:
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), _ANSWER).close()
    except OSError as error:
        raise SourceError(
            f"the tracking server {shown(address)} does not answer: {error.strerror or error}",
            expected="a server that runs",
            todo="start it (mlflow server), or track in a file: --track sqlite:///runs.db",
        ) from error
