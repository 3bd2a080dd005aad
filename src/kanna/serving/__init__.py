"""One OpenAI-compatible gateway in front of stock runtimes.

It supervises their processes, and has keys, limits, usage and metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kanna._util import extras
from kanna._util.arguments import several
from kanna._util.units import Size, optional_size

__all__ = ["serve"]

EXTRA = "serve"
_NEEDED = ("aiohttp", "fastapi", "prometheus_client", "uvicorn")


def serve(
    models: str | Path | Sequence[str | Path],
    *,
    alias: str | Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    context: int = 4096,
    parallel: int = 8,
    memory: Size | None = None,
    engine_memory: Size | None = None,
    threads: int | None = None,
    adapter: str | Sequence[str] = (),
    draft: str | Sequence[str] = (),
    mmproj: str | Path | Sequence[str | Path] = (),
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    canary: str | Sequence[str] = (),
    canary_agreement: float = 0.8,
    canary_slowdown: float = 1.5,
    gpu_layers: int | None = None,
    llama_server: str | Path = "auto",
    max_tokens: int = 0,
    queue: int = 64,
    time_limit: float = 600.0,
    idle: float = 0.0,
    state: str | Path | None = None,
    audit: str | Path | None = None,
    keys: bool = False,
    wait_for_key: bool = False,
    open_to_all: bool = False,
    cors_origin: str | Sequence[str] = (),
    traces: str = "",
    offline: bool = False,
    started: Callable[[str], None] | None = None,
    remark: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve files until the process is interrupted.

    Args:
        models: Files or any references to them, or NAME=FILE. The name stands in requests; without
            one it is the file's name without its ending.
        alias: Another name for the first model, or ALIAS=NAME.
        host: Where to listen. Other hosts than loopback need a key in every request.
        port: 0 takes a free one.
        context: Tokens of one request.
        parallel: Requests an engine computes together.
        memory: Bytes all engines together may take, or a text such as 8GB; None: 80 % of what is
            free.
        engine_memory: Bytes one engine may take, besides the mapped file of its weights, before it
            is started again; None: twice what its model is reckoned to need, and 2 GiB.
        threads: Of each engine; None: one per physical core.
        adapter: LoRA adapters, in GGUF beside a GGUF, `.onnx_adapter` beside an ONNX folder,
            folders of mlx-lm or PEFT beside an MLX folder, as NAME=FILE or FILE for the first
            model; of scale 1 until switched.
        draft: Small GGUF files of the same vocabulary that guess ahead (speculative decoding),
            named as adapters are.
        mmproj: Vision towers of GGUF files, with which chats may have pictures, named as adapters
            are.
        tls_cert: File of the certificate chain, in PEM.
        tls_key: File of its key, in PEM.
        canary: [NAME=]PATH[@SHARE]: a file to try on a share (0.1) of a model's requests. It
            is taken back by itself when too few next tokens agree, when it is too slow, when it
            fails three times in a row, or does not load.
        canary_agreement: Share of next tokens that must agree with the model's.
        canary_slowdown: Times the model's median time that a canary's may be.
        gpu_layers: Layers of a GGUF on the GPU; None: all of them where there is one.
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
        wait_for_key: Start although there is no key yet; every request is refused until one is
            made.
        open_to_all: Ask for none anywhere.
        cors_origin: Web pages elsewhere that may ask, as https://chat.example; `*`: all.
        traces: Where an OpenTelemetry collector takes OTLP over HTTP; empty: no traces.
        offline: Use only what is on this machine already.
        started: Called with the address when requests may come.
        remark: Called with what people may want to know.

    Raises:
        UsageError: An option is wrong, or a model cannot be served with it.
        MissingError: The extra `serve`, or the runtime of a model, is not installed.
        KannaError: The address is taken.
    """
    check_installed()
    from kanna.serving import arguments, registration, server
    from kanna.serving.settings import GatewayLimits, GatewaySettings

    settings = GatewaySettings(
        host=host,
        port=port,
        audit=Path(audit) if audit else None,
        memory=optional_size(memory),
        engine_memory=optional_size(engine_memory),
        context=context,
        slots=parallel,
        threads=threads,
        gpu_layers=gpu_layers,
        native_program=arguments.find_program(llama_server),
        idle=idle,
        keys=keys,
        open_to_all=open_to_all,
        origins=tuple(arguments.parse_origin(origin) for origin in several(cors_origin)),
        limits=GatewayLimits(max_tokens=max_tokens, queue=queue, request_time=time_limit),
    )
    specs = arguments.parse_models(several(models), several(alias), offline=offline)
    arguments.add_companions(
        specs, several(adapter), several(draft), several(mmproj), offline=offline
    )
    registration.check_installed(specs, settings)
    if traces:
        extras.require("otel", "the export of traces")
    options = server.ServerOptions(
        state=state,
        tls=arguments.parse_tls(tls_cert, tls_key),
        canaries=server.CanaryArguments(
            artefacts=several(canary), agreement=canary_agreement, slowdown=canary_slowdown
        ),
        traces=traces,
        choose_program=llama_server == arguments.AUTO,
        wait_for_key=wait_for_key,
        on_started=started,
        on_message=remark,
    )
    server.run(specs, settings, options)


def check_installed() -> None:
    """Raise MissingError where a package of the gateway is absent."""
    extras.require("serve", "the gateway", _NEEDED)
