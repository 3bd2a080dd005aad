"""The process of the gateway: its first engine, its socket, and uvicorn."""

from __future__ import annotations

import logging
import socket
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kanna.errors import KannaError, UsageError
from kanna.serving import engines, heap
from kanna.serving.arguments import TlsOptions
from kanna.serving.guard.store import KeyStore
from kanna.serving.launch import launch
from kanna.serving.settings import GatewaySettings, ModelSpec, open_store, state_folder

if TYPE_CHECKING:
    from kanna.serving.app import AppExtension
    from kanna.serving.pool import ModelPool

LOG = logging.getLogger("kanna.serve")
_BACKLOG = 1024
"""Connections that wait while the gateway starts, instead of being refused."""


@dataclass(slots=True, kw_only=True, frozen=True)
class CanaryArguments:
    """Canaries as they are typed.

    Attributes:
        artefacts: [NAME=]PATH[@SHARE].
        agreement: Least share of equal next tokens.
        slowdown: Most that a canary's median time may be, in times the model's.
    """

    artefacts: Sequence[str] = ()
    agreement: float = 0.8
    slowdown: float = 1.5


@dataclass(slots=True, kw_only=True, frozen=True)
class ServerOptions:
    """What the server needs besides the settings of the gateway.

    Attributes:
        state: Folder of keys and usage; None: the user's.
        tls: Certificate and key; empty: none.
        canaries: Artefacts to try.
        traces: Address of a collector; empty: no traces.
        choose_program: Measure which program is faster, for engines that have a native one.
        wait_for_key: Start although there is no key yet.
        on_started: Called with the address when requests may come.
        on_message: Called with remarks for people.
        extend: Makes what is served besides the models, from the pool of them; None: nothing.
    """

    state: str | Path | None
    tls: TlsOptions
    canaries: CanaryArguments
    traces: str
    choose_program: bool
    wait_for_key: bool
    on_started: Callable[[str], None] | None
    on_message: Callable[[str], None]
    extend: Callable[[ModelPool], AppExtension] | None = None


def run(specs: list[ModelSpec], settings: GatewaySettings, options: ServerOptions) -> None:
    """Serve until the process is interrupted.

    The process of the first engine starts up, and loads its model, while the gateway imports the
    rest.
    """
    early = _engine_process(specs[0]) if specs else nullcontext(None)
    with early as process, closing(open_store(options.state)) as store:
        from kanna.serving.canary import CanarySpec
        from kanna.serving.metrics import Metrics
        from kanna.serving.pool import ModelPool

        if not options.wait_for_key:
            _check_keys(settings, store, options.state)
        listener = listen(settings.host, settings.port)
        canaries = [
            CanarySpec.parse(
                artefact, specs[0].name, options.canaries.agreement, options.canaries.slowdown
            )
            for artefact in options.canaries.artefacts
        ]
        pool = ModelPool(specs, settings, Metrics(), canaries)
        if options.choose_program:
            _choose_program(pool, options)
        pool.prestart(process)
        try:
            with warnings_told(options.on_message):
                _run_uvicorn(pool, store, settings, options, listener)
        finally:
            pool.kill()


@contextmanager
def warnings_told(on_message: Callable[[str], None]) -> Generator[None]:
    """Tell people what the gateway warns of, such as an engine that does not start.

    Args:
        on_message: Called with each warning.
    """

    class WarningTeller(logging.Handler):
        """Hands on what is logged."""

        def emit(self, record: logging.LogRecord) -> None:
            on_message(record.getMessage())

    handler = WarningTeller(logging.WARNING)
    LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)


def _run_uvicorn(
    pool: ModelPool,
    store: KeyStore,
    settings: GatewaySettings,
    options: ServerOptions,
    listener: socket.socket,
) -> None:
    import uvicorn

    from kanna.serving.app import create_app
    from kanna.serving.connections import protocol
    from kanna.serving.traces import TraceExporter

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if options.tls else "http"
    address = f"{scheme}://{host}:{listener.getsockname()[1]}"

    def announce() -> None:
        if options.on_started:
            options.on_started(address)

    traces = TraceExporter(options.traces) if options.traces else None
    extension = options.extend(pool) if options.extend else None
    config = uvicorn.Config(
        create_app(pool, store, settings, announce, traces, extension),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        http=protocol(settings.limits),
        ws="none",
        backlog=_BACKLOG,
        **options.tls,
    )
    heap.settle()
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _engine_process(spec: ModelSpec) -> Generator[subprocess.Popen[bytes]]:
    """A process for a model's engine, killed at the end."""
    process = launch(engines.for_artefact(spec.path).name)
    try:
        yield process
    finally:
        process.kill()


def _check_keys(settings: GatewaySettings, store: KeyStore, state: str | Path | None) -> None:
    """Raise UsageError when every request will need a key and there is none."""
    if settings.keys_needed and not any(key.revoked is None for key in store.list_keys()):
        reason = (
            "--keys was given"
            if settings.loopback
            else f"{settings.host} is not a loopback address"
        )
        raise UsageError(
            f"every request will need a key ({reason}), and there is none",
            expected="a key, or --open-to-all",
            todo="kanna keys create --name NAME" + (f" --state {state}" if state else ""),
        )


def _choose_program(pool: ModelPool, options: ServerOptions) -> None:
    """Let the faster program run the models whose engine has a native one."""
    for model in pool.models.values():
        if model.engine.choose_program:
            config = pool.loader.config(model.spec, model.engine)
            folder = state_folder(options.state)
            choice = model.engine.choose_program(config, folder, options.on_message)
            pool.settings.native_program = choice.program
            if choice.reason:
                options.on_message(choice.reason)
            return


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections from now on; raises KannaError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise KannaError(
            f"{host}:{port} cannot be listened on: {error.strerror}", todo="choose another --port"
        ) from None
    return listener
