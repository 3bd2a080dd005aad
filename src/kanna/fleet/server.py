"""The server of a fleet: one process per folder of state, or several at one database."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kanna._util import locks
from kanna.errors import UsageError
from kanna.fleet.connection import is_loopback
from kanna.serving import check_installed

if TYPE_CHECKING:
    from kanna.fleet.service import FleetService
    from kanna.fleet.store import FleetStore
    from kanna.serving.arguments import TlsOptions

PORT = 8750


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetListener:
    """Where a fleet is served.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        tls_cert: File of the certificate chain, in PEM.
        tls_key: File of its key, in PEM.
        insecure_http: Serve plain HTTP on other addresses than loopback, as behind a proxy that
            ends TLS.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    insecure_http: bool = False


def serve(
    state: str | Path,
    *,
    database: str | None = None,
    listener: FleetListener = FleetListener(),
    poll: float = 60.0,
    started: Callable[[str, list[Path]], None] | None = None,
) -> None:
    """Serve a fleet until the process is interrupted.

    Args:
        state: Folder of artefacts and, without `database`, of devices and rollouts; made with its
            keys when it does not exist.
        database: `postgresql://USER@HOST/NAME`, which several servers may share, with a folder
            that they share, too; None: a file in `state`.
        listener: Where to listen.
        poll: Seconds between two questions of a device.
        started: Called with the address, and the files of keys that were made, when requests may
            come.

    Raises:
        UsageError: Other machines would talk to it in plain HTTP, or the database is none.
        OutputError: Another server has the folder.
        MissingError: The extra `serve`, or `postgres`, is not installed.
        KannaError: The address is taken, or the database does not answer.
    """
    check_installed()
    from kanna.fleet.access import KeyBook
    from kanna.fleet.service import FleetService
    from kanna.serving.arguments import parse_tls
    from kanna.serving.server import listen

    tls = parse_tls(listener.tls_cert, listener.tls_key)
    if not (tls or listener.insecure_http or is_loopback(listener.host)):
        raise UsageError(
            f"{listener.host} is no loopback address, and keys would be sent in plain text",
            expected="--tls-cert and --tls-key",
            todo="or --insecure-http, behind a proxy that ends TLS",
        )
    folder = Path(state)
    with _store(folder, database) as store:
        made = KeyBook(store).make_first(folder)
        socket_ = listen(listener.host, listener.port)
        address = _address(listener.host, socket_.getsockname()[1], tls)
        announce = (lambda: started(address, made)) if started else (lambda: None)
        _run(FleetService(store, folder, poll), socket_, tls, announce)


@contextmanager
def _store(folder: Path, database: str | None) -> Generator[FleetStore]:
    """Where the fleet is kept: in the folder, which is then this process' alone, or elsewhere."""
    from kanna.fleet.store import FleetStore

    if database is not None:
        with closing(FleetStore(database)) as store:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield store
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        locks.holding(folder / "fleet", "fleet serve"),
        closing(FleetStore(folder / "fleet.sqlite")) as store,
    ):
        yield store


def _address(host: str, port: int, tls: TlsOptions) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{port}"


def _run(
    service: FleetService, listener: socket.socket, tls: TlsOptions, announce: Callable[[], None]
) -> None:
    import uvicorn

    from kanna.fleet.app import create_app
    from kanna.serving.connections import protocol
    from kanna.serving.settings import GatewayLimits

    config = uvicorn.Config(
        create_app(service, announce),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        http=protocol(GatewayLimits(connections=20_000)),
        ws="none",
        backlog=4096,
        **tls,
    )
    uvicorn.Server(config).run(sockets=[listener])
