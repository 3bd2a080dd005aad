"""The server of a fleet: one process per folder of state."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from kanna._util import locks
from kanna.errors import UsageError
from kanna.fleet.connection import is_loopback
from kanna.serving import check_installed

if TYPE_CHECKING:
    from kanna.fleet.service import FleetService
    from kanna.serving.arguments import TlsOptions

PORT = 8750


def serve(
    state: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    poll: float = 60.0,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    insecure_http: bool = False,
    started: Callable[[str, list[Path]], None] | None = None,
) -> None:
    """Serve a fleet until the process is interrupted.

    Args:
        state: Folder of devices, artefacts and rollouts; made with its keys when it does not
            exist.
        host: Where to listen.
        port: 0 takes a free one.
        poll: Seconds between two questions of a device.
        tls_cert: File of the certificate chain, in PEM.
        tls_key: File of its key, in PEM.
        insecure_http: Serve plain HTTP on other addresses than loopback, as behind a proxy that
            ends TLS.
        started: Called with the address, and the files of keys that were made, when requests may
            come.

    Raises:
        UsageError: Other machines would talk to it in plain HTTP.
        OutputError: Another server has the folder.
        MissingError: The extra `serve` is not installed.
        KannaError: The address is taken.
    """
    check_installed()
    from kanna.fleet.access import KeyBook
    from kanna.fleet.service import FleetService
    from kanna.fleet.store import FleetStore
    from kanna.serving.arguments import parse_tls
    from kanna.serving.server import listen

    tls = parse_tls(tls_cert, tls_key)
    if not (tls or insecure_http or is_loopback(host)):
        raise UsageError(
            f"{host} is no loopback address, and keys would be sent in plain text",
            expected="--tls-cert and --tls-key",
            todo="or --insecure-http, behind a proxy that ends TLS",
        )
    folder = Path(state)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        locks.holding(folder / "fleet", "fleet serve"),
        closing(FleetStore(folder / "fleet.sqlite")) as store,
    ):
        made = KeyBook(store).make_first(folder)
        listener = listen(host, port)
        address = _address(host, listener.getsockname()[1], tls)
        announce = (lambda: started(address, made)) if started else (lambda: None)
        _run(FleetService(store, folder, poll), listener, tls, announce)


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
