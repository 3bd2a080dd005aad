"""GGUF: llama.cpp's own server, from xllamacpp or a native `llama-server`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import socket
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from kanna.errors import KannaError, MissingError, UnsupportedError
from kanna.serving.engines.base import EMBED, GENERATE, SCORE, EngineConfig, Footprint, ready

INSTALL = "pip install xllamacpp"


class Gguf:
    name = "gguf"
    extra = "serve"
    modules = ("xllamacpp",)
    forces_calls = False
    roles = (GENERATE, EMBED, SCORE)
    apart = (EMBED, SCORE)

    def accepts(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"

    def missing(self) -> str:
        return (
            "" if importlib.util.find_spec("xllamacpp") or shutil.which("llama-server") else INSTALL
        )

    def footprint(self, config: EngineConfig) -> Footprint:
        """The arithmetic of `kanna fit`, with one cache per slot; a draft model counts too.

        Scoring maps the same file: its weights are in memory already.
        """
        weights, cache, buffers = _of(config.path, config.context)
        if config.role == SCORE:
            return Footprint(weights=0, cache=cache, buffers=buffers)
        slots = config.slots if config.role == GENERATE else 1
        total = Footprint(weights=weights, cache=cache * slots, buffers=buffers)
        if config.draft and config.role == GENERATE:
            more, draft_cache, _ = _of(config.draft, config.context)
            total.weights += more
            total.cache += draft_cache * slots
        return total

    def run(self, config: EngineConfig) -> None:
        if config.role == SCORE:
            from kanna.serving.engines._llama_score import run

            run(config)
        elif config.program:
            _exec_native(config)
        else:
            _run_xllamacpp(config)


def _of(path: str, context: int) -> tuple[int, int, int]:
    return _needs(Path(path), Path(path).stat().st_mtime_ns, context)


@cache
def _needs(path: Path, written: int, context: int) -> tuple[int, int, int]:
    """Bytes of weights, of one key-value cache and of buffers.

    A family we do not know is taken for a plain one.

    Args:
        written: When the file was, in nanoseconds: its headers are read once for all who ask.
    """
    from kanna.families import load_model
    from kanna.formats import gguf
    from kanna.model import Model
    from kanna.sizing import buffer_bytes, cache_bytes
    from kanna.sources import open_source

    try:
        model = load_model(open_source(path, weights=False))
    except UnsupportedError:
        file = gguf.read(path)
        arch = str(file.value("general.architecture"))
        model = Model(name=path.stem, family=arch, tensors=file.tensors, metadata=file.metadata)
    weights = sum(t.nbytes for t in model.tensors.values())
    return weights, cache_bytes(model, context), buffer_bytes(model, context)


def _run_xllamacpp(config: EngineConfig) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingError("xllamacpp is not installed here", todo=INSTALL)
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params: Any = xllamacpp.CommonParams()
    params.model.path = config.path
    params.model_alias = {config.name}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [config.key]
    params.n_ctx, params.n_parallel = config.context * config.slots, config.slots
    params.n_threads_http = 2 * config.slots + 4
    params.use_jinja, params.ui, params.verbosity = True, False, 1
    params.endpoint_metrics = params.endpoint_slots = True
    params.fit_params = False  # the gateway has done that sum already
    params.cache_ram_mib = 0
    if config.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config.threads
    if config.gpu_layers is not None:
        params.n_gpu_layers = config.gpu_layers
    if config.draft:
        params.speculative.draft.mparams.path = config.draft
        params.speculative.types = [
            xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE
        ]
    if config.adapters:
        params.lora_adapters = [_adapter(xllamacpp, path) for path in config.adapters]
    if config.role == EMBED:
        params.embedding, params.n_parallel, params.n_ctx = True, 1, config.context
        params.n_batch = params.n_ubatch = config.context
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    port = int(str(server.listening_address).rsplit(":", 1)[1])
    ready(port, program="xllamacpp", build=str(xllamacpp.get_system_info()).strip())
    threading.Event().wait()


def _adapter(library: Any, path: str) -> Any:
    adapter = library.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, 1.0
    return adapter


def _exec_native(config: EngineConfig) -> None:
    """Become llama-server: the process id stays, and with it what ends it with the gateway."""
    if sys.platform != "linux":
        raise KannaError(
            "a native llama-server is only used on Linux", todo="leave --llama-server out"
        )
    assert config.program
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        config.program,
        "-m",
        config.path,
        "--alias",
        config.name,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += [
        "-c",
        str(config.context * config.slots),
        "-np",
        str(config.slots),
        "--jinja",
        "--no-webui",
    ]
    command += [
        "--metrics",
        "--slots",
        "--threads-http",
        str(2 * config.slots + 4),
        "-lv",
        "1",
        "--cache-ram",
        "0",
    ]
    command += ["-t", str(config.threads)] if config.threads else []
    command += ["-ngl", str(config.gpu_layers)] if config.gpu_layers is not None else []
    command += ["-md", config.draft] if config.draft else []
    if config.role == EMBED:
        command += [
            "--embeddings",
            "--pooling",
            "mean",
            "-b",
            str(config.context),
            "-ub",
            str(config.context),
        ]
    for path in config.adapters:
        command += ["--lora", path]
    # The key goes by the environment: command lines are there for everyone to read.
    environment = os.environ | {"LLAMA_API_KEY": config.key}
    ready(port, program=config.program, listening=False)
    os.execve(config.program, command, environment)


ENGINE = Gguf()
