"""Which llama.cpp runs GGUF files: xllamacpp's, or a native `llama-server` where that is faster.

Both run the model at hand and answer in turns. The verdict is stored in the state folder, so it is
measured once per program, version of xllamacpp and kind of file.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import secrets
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import TimeoutError
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_json
from kanna.formats import gguf
from kanna.serving.engines.base import GENERATE, EngineConfig, ProgramChoice
from kanna.serving.launch import EngineRun

LOG = logging.getLogger("kanna.serve")
PROGRAM = "llama-server"
CACHE_FILE = "llama-server.json"
_NATIVE, _PACKAGE = "native", "xllamacpp"
"""The keys of a measurement, as state folders have them."""
_ROUNDS, _MEASURING_TIME = 3, 20.0
"""Requests to each, and seconds after which no further round begins."""
_LOAD_TIME = 300.0
_MARGIN = 1.02
"""A native program that is faster by less is not worth giving up the version that kanna chose."""
_REQUEST = {
    "prompt": "one two three four " * 16,
    "max_tokens": 32,
    "temperature": 0,
    "cache_prompt": False,
    "ignore_eos": True,
}


def choose(
    config: EngineConfig, state_folder: Path, on_message: Callable[[str], None] = lambda _: None
) -> ProgramChoice:
    """The faster program for the model of `config`.

    Args:
        config: Of the model that is measured.
        state_folder: Where verdicts are stored.
        on_message: Called before a measurement, which takes a while.
    """
    native = shutil.which(PROGRAM)
    version = _package_version()
    if native is None or sys.platform != "linux" or config.role != GENERATE:
        return ProgramChoice()  # what is measured is how fast text is generated
    if version is None:
        reason = f"{native} runs GGUF files: xllamacpp is not installed"
        return ProgramChoice(program=native, reason=reason)
    path, key = state_folder / CACHE_FILE, _cache_key(config, native, version)
    cache = _read_cache(path)
    seconds: dict[str, float] | None = cache.get(key)
    if seconds is None:
        on_message(f"Measuring once whether {native} or xllamacpp is faster")
        seconds = _measure(config, native)
        if set(seconds) == {_NATIVE, _PACKAGE}:
            write_json(path, cache | {key: seconds})
    return verdict(native, seconds)


def verdict(native: str, seconds: dict[str, float]) -> ProgramChoice:
    """The choice that follows from the seconds of each program that runs."""
    if _NATIVE not in seconds:
        return ProgramChoice(reason=f"xllamacpp runs GGUF files: {native} does not")
    if _PACKAGE not in seconds:
        reason = f"{native} runs GGUF files: xllamacpp does not"
        return ProgramChoice(program=native, reason=reason)
    ratio = seconds[_PACKAGE] / seconds[_NATIVE]
    if ratio > _MARGIN:
        reason = f"{native} runs GGUF files: it is {ratio:.2f} times as fast as xllamacpp"
        return ProgramChoice(program=native, reason=reason)
    reason = f"xllamacpp runs GGUF files: {native} is {ratio:.2f} times as fast"
    return ProgramChoice(reason=reason)


def _package_version() -> str | None:
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return None


def _cache_key(config: EngineConfig, native: str, version: str) -> str:
    """What a verdict depends on: both builds, the kind of file, threads and layers on a GPU."""
    program = Path(native).resolve()
    stat, file = program.stat(), gguf.read(Path(config.path))
    kind = [
        file.metadata[k].value if k in file.metadata else ""
        for k in ("general.architecture", "general.file_type")
    ]
    size = Path(config.path).stat().st_size.bit_length()
    builds = [program, stat.st_size, stat.st_mtime_ns, version]
    parts = [*builds, *kind, size, config.threads, config.gpu_layers]
    return " ".join(str(part) for part in parts)


def _measure(config: EngineConfig, native: str) -> dict[str, float]:
    """Seconds of the fastest request to each program that runs.

    Both map the same file, so they can be in memory together.
    """
    fastest: dict[str, float] = {}
    with ExitStack() as stack:
        servers: dict[str, tuple[int, str]] = {}
        for name, program in ((_PACKAGE, None), (_NATIVE, native)):
            small = replace(
                config,
                program=program,
                context=512,
                slots=1,
                draft=None,
                adapters=[],
                mmproj=None,
                key=secrets.token_urlsafe(32),
            )
            run = EngineRun(small)
            stack.callback(run.process.kill)
            try:
                port = _wait_ready(run, small.key)
                _time_request(port, small.key)
                servers[name] = port, small.key
            except (OSError, RuntimeError, ValueError, TimeoutError) as error:
                LOG.info("%s does not run %s: %s", program or name, config.path, error)
        started = time.monotonic()
        for _ in range(_ROUNDS if len(servers) > 1 else 1):
            for name, (port, key) in servers.items():
                fastest[name] = min(fastest.get(name, 1e9), _time_request(port, key))
            if time.monotonic() - started > _MEASURING_TIME:
                break
    return fastest


def _wait_ready(run: EngineRun, key: str) -> int:
    """The port of a program that has loaded the model."""
    announced = run.ready.result(_LOAD_TIME)
    headers = {"authorization": f"Bearer {key}"}
    deadline = time.monotonic() + _LOAD_TIME
    while time.monotonic() < deadline and not run.ended.done():
        try:
            request = urllib.request.Request(
                f"http://127.0.0.1:{announced['port']}/health", headers=headers
            )
            with urllib.request.urlopen(request, timeout=5):
                return int(announced["port"])
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("it does not come up")


def _time_request(port: int, key: str) -> float:
    """Seconds of one request."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(_REQUEST).encode(), headers
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=_LOAD_TIME) as response:
        json.loads(response.read())
    return time.perf_counter() - started


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        cache = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}
