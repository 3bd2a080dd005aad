"""GGUF: llama.cpp's own server, from xllamacpp or a native `llama-server`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna._util import extras
from kanna.errors import KannaError, MissingError, UnsupportedError
from kanna.formats.file_states import State, state
from kanna.libllama import builds, installed
from kanna.serving.engines._gguf_adapters import check_adapter
from kanna.serving.engines.base import (
    EMBED,
    GENERATE,
    RANK,
    SCORE,
    EngineConfig,
    EngineMemory,
    ProgramChoice,
    ServingEngine,
)
from kanna.serving.engines.guidance import LLGUIDANCE
from kanna.serving.engines.handshake import announce_ready

if TYPE_CHECKING:
    from kanna.serving.engines.chat_check import ChatCheck

_CONTROL = 3
"""The type of a token that is no text, in `tokenizer.ggml.token_type`."""
_BATCH = 512
"""Prompt tokens between two answers to a probe; llama.cpp computes no more at a time."""


def accepts(path: Path) -> bool:
    """Whether the file begins as a GGUF does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def missing() -> str:
    """How to install xllamacpp where neither it nor `llama-server` is here; otherwise empty.

    Raises MissingError where another llama.cpp was chosen, for a GPU that xllamacpp would not use.
    """
    _refuse_other_device()
    if importlib.util.find_spec("xllamacpp") or shutil.which("llama-server"):
        return ""
    return extras.command("serve")


def _refuse_other_device() -> None:
    choice = builds.wanted()
    build = None if choice in builds.CHOICES else installed.get(choice)
    if build is not None and build.backend != "cpu":
        raise MissingError(
            f"the runtime {build.name} is in use, and `kanna serve` runs the llama.cpp inside "
            "xllamacpp, which would compute on the CPU",
            expected="a llama-server that was built for the device, named by --llama-server",
            todo=f"{builds.VARIABLE}=auto serves on the CPU",
        )


def memory(config: EngineConfig) -> EngineMemory:
    """The arithmetic of `kanna fit`, with one cache per slot; a draft model counts too.

    Scoring maps the same file: its weights are in memory already.
    """
    model = _file_memory(config.path, _context(config))
    if config.role == SCORE:
        return EngineMemory(weights=0, cache=model.cache, buffers=model.buffers)
    slots = config.slots if config.role == GENERATE else 1
    total = EngineMemory(weights=model.weights, cache=model.cache * slots, buffers=model.buffers)
    if config.draft and config.role == GENERATE:
        draft = _file_memory(config.draft, config.context)
        total.weights += draft.weights
        total.cache += draft.cache * slots
    if config.mmproj and config.role == GENERATE:
        total.weights += Path(config.mmproj).stat().st_size
        total.buffers += _picture_bytes(config.mmproj)
    return total


def _picture_bytes(mmproj: str) -> int:
    """Of the states of one picture in its tower, in single precision, about."""
    from kanna.families import towers
    from kanna.formats import gguf

    tower = towers.stored(gguf.read(Path(mmproj)).metadata)
    return tower.state_bytes if tower is not None else 0


def check_tower(path: Path, mmproj: Path) -> None:
    """Hold a vision tower to a file; raises FormatError."""
    from kanna.families.towers.pairing import check_pair
    from kanna.runtimes.llamacpp import check_header

    check_pair(path, mmproj)
    check_header(mmproj)


def role_of(path: Path) -> str:
    """What a file is for, as its pooling says: vectors, scores, or text."""
    from kanna.formats import gguf
    from kanna.formats.gguf import purpose
    from kanna.sources import adapter

    file = gguf.read(path)
    adapter.refuse_gguf(file.value("general.type"), path.name)
    if purpose.ranks(file):
        return RANK
    return EMBED if purpose.makes_vectors(file) else GENERATE


def _pools(path: str) -> bool:
    """Whether a file says how the states of tokens become a vector."""
    from kanna.formats import gguf
    from kanna.formats.gguf import purpose

    return bool(purpose.pooling(gguf.read(Path(path))))


def _context(config: EngineConfig) -> int:
    """Tokens per slot: of an encoder no more than it has positions for."""
    from kanna.formats import gguf

    if config.role not in (EMBED, RANK):
        return config.context
    file = gguf.read(Path(config.path))
    trained = file.value(f"{file.value('general.architecture')}.context_length")
    return min(config.context, trained) if isinstance(trained, int) else config.context


def run(config: EngineConfig) -> None:
    """Serve the file in this process, or become a native program that does."""
    if config.role == SCORE:
        from kanna.serving.engines import _llama_scoring

        _llama_scoring.run(config)
    elif config.program:
        _exec_native(config)
    else:
        _run_xllamacpp(config)


def vocab_size(path: Path) -> int:
    """Tokens of a file: llama.cpp looks for a bias of any other in the whole vocabulary."""
    return _cached_vocab_size(path, state(path.stat()))


@cache
def _cached_vocab_size(path: Path, version: State) -> int:
    from kanna.formats import gguf

    tokens = gguf.read(path).metadata.get("tokenizer.ggml.tokens")
    return len(tokens.value) if tokens else 0


def choose_program(
    config: EngineConfig, state_folder: Path, on_message: Callable[[str], None]
) -> ProgramChoice:
    """The faster of xllamacpp and a `llama-server` on the PATH."""
    from kanna.serving.engines import llama_programs

    return llama_programs.choose(config, state_folder, on_message)


def _file_memory(path: str, context: int) -> EngineMemory:
    return _cached_memory(Path(path), state(Path(path).stat()), context)


@cache
def _cached_memory(path: Path, version: State, context: int) -> EngineMemory:
    """Bytes of the weights, of one key-value cache and of buffers.

    A family that kanna does not know counts as a plain one. `version` is part of the key: headers
    are read once per version of a file.
    """
    from kanna.families import check_stored, load_model
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
    check_stored(model)
    return EngineMemory(
        weights=sum(tensor.nbytes for tensor in model.tensors.values()),
        cache=cache_bytes(model, context),
        buffers=buffer_bytes(model, context),
    )


def chat_check(path: Path) -> ChatCheck:
    """What renders the chats of a file under limits; read once per version of it."""
    return _cached_chat_check(path, state(path.stat()))


@lru_cache(64)
def _cached_chat_check(path: Path, version: State) -> ChatCheck:
    from kanna.formats import gguf
    from kanna.serving.engines.chat_check import ChatCheck
    from kanna.tokenizer.templates import DEFAULT, TOOLS

    file = gguf.read(path)
    named = {DEFAULT: file.value("tokenizer.chat_template")}
    named[TOOLS] = file.value(f"tokenizer.chat_template.{TOOLS}")  # llama.cpp takes no other
    tokens = file.value("tokenizer.ggml.tokens", ())

    def text(kind: str) -> str:
        at = file.value(f"tokenizer.ggml.{kind}_token_id")
        return str(tokens[at]) if isinstance(at, int) and 0 <= at < len(tokens) else ""

    kinds = file.value("tokenizer.ggml.token_type", ())
    controls = {str(token) for token, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL}
    return ChatCheck(
        named={name: text for name, text in named.items() if isinstance(text, str)},
        bos=text("bos"),
        eos=text("eos"),
        controls=frozenset((controls | {text(k) for k in ("eos", "eot", "eom")}) - {""}),
    )


def _run_xllamacpp(config: EngineConfig) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingError("xllamacpp is not installed here", todo=extras.command("serve"))
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
    params.fit_params = False  # the gateway has checked the memory already
    params.cache_ram_mib = 0
    params.ctx_shift = False  # an answer ends where its context does
    params.n_batch = _BATCH
    if config.chat_template is not None:
        params.chat_template = config.chat_template
    if config.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config.threads
    if config.gpu_layers is not None:
        params.n_gpu_layers = config.gpu_layers
    if config.mmproj and config.role == GENERATE:
        params.mmproj.path = config.mmproj
    if config.draft:
        params.speculative.draft.mparams.path = config.draft
        params.speculative.types = [
            xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE
        ]
    if config.adapters:
        params.lora_adapters = [_adapter(xllamacpp, path) for path in config.adapters]
    if config.role in (EMBED, RANK):
        params.embedding, params.n_parallel, params.n_ctx = True, 1, _context(config)
        params.n_batch = params.n_ubatch = _context(config)
        kinds = xllamacpp.llama_pooling_type
        if config.role == RANK:
            params.pooling_type = kinds.LLAMA_POOLING_TYPE_RANK
        elif not _pools(config.path):
            params.pooling_type = kinds.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    port = int(str(server.listening_address).rsplit(":", 1)[1])
    announce_ready(
        port,
        program="xllamacpp",
        build=str(xllamacpp.get_system_info()).strip(),
        guidance=str(xllamacpp.json_schema_to_grammar("{}")).startswith(LLGUIDANCE),
    )
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
    # The key goes by the environment: command lines are there for everyone to read.
    environment = os.environ | {"LLAMA_API_KEY": config.key}
    announce_ready(port, program=config.program, listening=False)
    os.execve(config.program, [config.program, *native_options(config, port)], environment)


def native_options(config: EngineConfig, port: int) -> list[str]:
    """The command line of a native llama-server."""
    options: dict[str, object] = {
        "-m": config.path,
        "--alias": config.name,
        "--host": "127.0.0.1",
        "--port": port,
        "-c": config.context * config.slots,
        "-np": config.slots,
        "--threads-http": 2 * config.slots + 4,
        "-lv": 1,
        "--cache-ram": 0,
        "-b": _BATCH,
    }
    flags = ["--jinja", "--no-webui", "--metrics", "--slots"]
    if config.threads:
        options["-t"] = config.threads
    if config.gpu_layers is not None:
        options["-ngl"] = config.gpu_layers
    if config.chat_template is not None:
        options["--chat-template"] = config.chat_template
    if config.draft:
        options["-md"] = config.draft
    if config.mmproj and config.role == GENERATE:
        options["--mmproj"] = config.mmproj
    if config.role in (EMBED, RANK):
        flags.append("--embeddings")
        context = _context(config)
        options |= {"-c": context, "-np": 1, "-b": context, "-ub": context}
        if config.role == RANK:
            options["--pooling"] = "rank"
        elif not _pools(config.path):
            options["--pooling"] = "mean"
    pairs = [*options.items(), *(("--lora", path) for path in config.adapters)]
    return [*flags, *(str(part) for pair in pairs for part in pair)]


def constraint_trial(artefact: str) -> Callable[[str, str], str]:
    """Compiles constraints as the engine does, in a process of its own."""
    from kanna.serving.engines import _llama_grammar_trial

    return _llama_grammar_trial.prepare(artefact, chat_check(Path(artefact)))


ENGINE = ServingEngine(
    name="gguf",
    summary="GGUF: llama.cpp's own server, from xllamacpp or a native `llama-server`",
    artefact="a .gguf file",
    suffix=".gguf",
    extra="serve",
    modules=("xllamacpp",),
    roles=(GENERATE, EMBED, RANK, SCORE),
    role_of=role_of,
    separate_roles=(EMBED, SCORE),
    vocab_size=vocab_size,
    probe="/slots",
    takes_adapters=True,
    check_adapter=check_adapter,
    takes_draft=True,
    check_tower=check_tower,
    constraint_trial=constraint_trial,
    accepts=accepts,
    missing=missing,
    memory=memory,
    run=run,
    choose_program=choose_program,
    chat_check=chat_check,
)
