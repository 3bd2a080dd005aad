"""One OpenAI-compatible gateway in front of stock runtimes.

Supervised engines, keys, limits, usage, metrics.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kanna.errors import KannaError, MissingError, UsageError

if TYPE_CHECKING:
    from kanna.serving.guard.store import Store
    from kanna.serving.pool import Pool
    from kanna.serving.settings import ModelSpec, Settings

__all__ = ["serve"]

AUTO, NEVER = "auto", "never"
EXTRA = "serve"
INSTALL = "pip install 'kanna[serve]'"
_NEEDED = ("aiohttp", "fastapi", "prometheus_client", "uvicorn")


def serve(
    models: Sequence[str | Path],
    *,
    alias: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    context: int = 4096,
    parallel: int = 8,
    memory: int | None = None,
    threads: int | None = None,
    adapter: Sequence[str] = (),
    draft: Sequence[str] = (),
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    canary: Sequence[str] = (),
    canary_agreement: float = 0.8,
    canary_slowdown: float = 1.5,
    gpu_layers: int | None = None,
    llama_server: str | Path = AUTO,
    max_tokens: int = 0,
    queue: int = 64,
    time_limit: float = 600.0,
    idle: float = 0.0,
    state: str | Path | None = None,
    audit: str | Path | None = None,
    keys: bool = False,
    wait_for_key: bool = False,
    open_to_all: bool = False,
    cors_origin: Sequence[str] = (),
    traces: str = "",
    started: Callable[[str], None] | None = None,
    remark: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve artefacts until the process is interrupted.

    Raises UsageError, MissingError, and KannaError for an address that is taken.

    Args:
        models: Files, or NAME=FILE; the name stands in requests, and is the file's name without its
            ending otherwise.
        alias: Another name for the first model, or ALIAS=NAME.
        host, port: Where to listen; port 0 takes a free one. Other hosts than loopback need a key
            in every request.
        context: Tokens of one request.
        parallel: Requests an engine computes together.
        threads: Of each engine; None: one per physical core.
        gpu_layers: Layers of a GGUF on the GPU; None: all of them where there is one.
        memory: Bytes all engines together may take; None: 80 % of what is free.
        adapter: LoRA adapters of GGUF files, as NAME=FILE or FILE for the first model; of scale 1
            until switched.
        draft: Small GGUF files of the same vocabulary that guess ahead (speculative decoding),
            named as adapters are.
        tls_cert, tls_key: Files of the certificate chain and its key, in PEM.
        canary: [NAME=]PATH[@SHARE]: an artefact to try on a share (0.1) of a model's requests. It
            is taken back by itself when too few next tokens agree, when it is too slow, when it
            fails three times in a row, or does not load.
        canary_agreement: Share of next tokens that must agree with the model's.
        canary_slowdown: Times the model's median time that a canary's may be.
        llama_server: A native program that runs GGUF files in place of xllamacpp; `auto`: the
            faster of xllamacpp and a `llama-server` on the PATH, measured once; `never`: xllamacpp.
        max_tokens: Most new tokens of one answer; 0: what the context holds.
        queue: Requests that may wait per model, more get 503.
        time_limit: Seconds an answer may take, whole or streamed.
        idle: Unload a model unused for that many seconds; 0: only when another one needs its
            memory.
        state: Folder of keys and usage.
        audit: A file that gets one JSON line per request, never its text.
        keys: Ask for keys on loopback, too.
        open_to_all: Ask for none anywhere.
        wait_for_key: Start although there is no key yet; every request is refused until one is
            made.
        cors_origin: Web pages elsewhere that may ask, as https://chat.example; `*`: all.
        traces: Where an OpenTelemetry collector takes OTLP over HTTP; empty: no traces.
        started: Called with the address when requests may come.
        remark: With what people may want to know.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(
            f"the gateway needs {missing[0]}, which is not installed here", todo=INSTALL
        )
    from kanna.serving.settings import Limits, Settings, open_store

    settings = Settings(
        host=host,
        port=port,
        audit=Path(audit) if audit else None,
        memory=memory,
        context=context,
        slots=parallel,
        threads=threads,
        gpu_layers=gpu_layers,
        llama_server=_program(llama_server),
        idle=idle,
        keys=keys,
        open_to_all=open_to_all,
        origins=tuple(_origin(o) for o in cors_origin),
        limits=Limits(max_tokens=max_tokens, queue=queue, request_time=time_limit),
    )
    specs = _specs(models, alias)
    for spec, file in _files_of(specs, adapter, "adapter"):
        spec.adapters.append(file)
    for spec, file in _files_of(specs, draft, "draft model"):
        if spec.draft:
            raise UsageError(
                f"{spec.name} has two draft models: {spec.draft} and {file}", expected="one"
            )
        spec.draft = file
    tls = _tls(tls_cert, tls_key)
    with _launched(specs[0]) as engine, closing(open_store(state)) as store:
        from kanna.serving.canary import CanarySpec
        from kanna.serving.metrics import Metrics
        from kanna.serving.pool import Pool

        if not wait_for_key:
            _check_keys(settings, store, state)
        bound = _bind(host, port)
        address = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        canaries = [
            CanarySpec.parse(c, specs[0].name, canary_agreement, canary_slowdown) for c in canary
        ]
        pool = Pool(specs, settings, Metrics(), canaries)
        if llama_server == AUTO:
            _choose_llama(pool, settings, state, remark)
        pool.prestart(engine)
        try:
            import uvicorn

            from kanna.serving.app import create_app
            from kanna.serving.traces import Traces
            from kanna.serving.wire import protocol

            told = (lambda: started(address)) if started else (lambda: None)
            app = create_app(pool, store, settings, told, Traces(traces) if traces else None)
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=5,
                http=protocol(settings.limits),
                ws="none",
                backlog=1024,
                **tls,
            )
            uvicorn.Server(config).run(sockets=[bound])
        finally:
            pool.kill()


@contextmanager
def _launched(spec: ModelSpec) -> Generator[subprocess.Popen[bytes]]:
    """The process of a model's engine.

    It starts up, and loads the model, while the gateway imports the rest.
    """
    from kanna.serving import engines
    from kanna.serving.launch import launch

    process = launch(engines.for_artefact(spec.path).name)
    try:
        yield process
    finally:
        process.kill()


def _check_keys(settings: Settings, store: Store, state: str | Path | None) -> None:
    if settings.keys_needed and not any(k.revoked is None for k in store.listed()):
        why = (
            "--keys was given"
            if settings.loopback
            else f"{settings.host} is not a loopback address"
        )
        raise UsageError(
            f"every request will need a key ({why}), and there is none",
            expected="a key, or --open-to-all",
            todo="kanna keys create --name NAME" + (f" --state {state}" if state else ""),
        )


def _program(given: str | Path) -> str | None:
    """An absolute path, or None for those that are no file; raises UsageError."""
    if given in {AUTO, NEVER}:
        return None
    found = shutil.which(str(given))
    if found is None:
        raise UsageError(
            f"{given} is no program", expected=f"a llama-server, or {AUTO}, or {NEVER}"
        )
    return str(Path(found).resolve())


def _choose_llama(
    pool: Pool, settings: Settings, state: str | Path | None, remark: Callable[[str], None]
) -> None:
    """Let the faster llama.cpp run the GGUF files of the pool."""
    from kanna.serving.fastest import choose
    from kanna.serving.settings import state_folder

    first = next((s for s in pool.models.values() if s.engine == "gguf"), None)
    if first is None:
        return
    choice = choose(pool.config(first.spec, first.engine), state_folder(state), remark)
    settings.llama_server = choice.program
    if choice.said:
        remark(choice.said)


def _specs(models: Sequence[str | Path], aliases: Sequence[str]) -> list[ModelSpec]:
    from kanna.serving.settings import ModelSpec

    specs: list[ModelSpec] = []
    for given in models:
        name, equal, path = str(given).partition("=")
        file = Path(path if equal else name).expanduser()
        if not file.exists():
            raise UsageError(
                f"{file} does not exist",
                expected="a .gguf file, an ONNX or MLX folder, or NAME=PATH",
            )
        specs.append(ModelSpec(name=name if equal else file.name.removesuffix(".gguf"), path=file))
    if not specs:
        raise UsageError("no model was given", expected="a .gguf file, an ONNX or MLX folder")
    for given in aliases:
        name, equal, of = given.partition("=")
        spec = next((s for s in specs if s.name == of), None) if equal else specs[0]
        if spec is None:
            raise UsageError(
                f"the alias {name} is for {of!r}", expected=", ".join(s.name for s in specs)
            )
        spec.aliases.append(name)
    return specs


def _files_of(
    specs: list[ModelSpec], given: Sequence[str], what: str
) -> Iterator[tuple[ModelSpec, Path]]:
    """[NAME=]FILE: which file goes with which model; raises UsageError."""
    for text in given:
        name, equal, path = text.partition("=")
        spec = next((s for s in specs if s.name == name), None) if equal else specs[0]
        if spec is None:
            raise UsageError(
                f"the {what} {path} is for {name!r}", expected=", ".join(s.name for s in specs)
            )
        file = Path(path if equal else name).expanduser()
        if not file.is_file():
            raise UsageError(f"the {what} {file} does not exist")
        yield spec, file


def _origin(given: str) -> str:
    """As browsers send it; raises UsageError."""
    parts = urlsplit(given)
    if given != "*" and (not parts.scheme or not parts.netloc or parts.path not in {"", "/"}):
        raise UsageError(
            f"{given!r} is no origin", expected="https://chat.example, with its port if any; or *"
        )
    return given.rstrip("/").lower()


def _tls(cert: str | Path | None, key: str | Path | None) -> dict[str, Any]:
    """uvicorn's options; raises UsageError for half of a pair, or files that do not go together."""
    if not (cert or key):
        return {}
    if not (cert and key):
        raise UsageError(
            "a certificate and its key go together", expected="--tls-cert and --tls-key"
        )
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(str(cert), str(key))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{cert} and {key} cannot be used for TLS: {error}",
            expected="a PEM certificate and its key",
        ) from None
    return {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(
            1024
        )  # who is quicker than the rest of the start waits, instead of being sent away
    except OSError as error:
        bound.close()
        raise KannaError(
            f"{host}:{port} cannot be listened on: {error.strerror}", todo="choose another --port"
        ) from None
    return bound
