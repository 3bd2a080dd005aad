"""Which llama.cpp runs GGUF files: xllamacpp's, or a native `llama-server` where that is faster.

Both run the model at hand and answer in turns; what is found is kept in the state folder, so it is
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_json
from kanna.formats import gguf
from kanna.serving.engines.base import EngineConfig
from kanna.serving.process import Run

LOG = logging.getLogger("kanna.serve")
PROGRAM = "llama-server"
_KEPT = "llama-server.json"
_ROUNDS, _ENOUGH = 3, 20.0
"""Turns each has, and seconds after which no further one begins."""
_LOADING = 300.0
_MARGIN = 1.02
"""What is faster by less is not worth a program that kanna does not choose the version of."""
_ASK = {
    "prompt": "one two three four " * 16,
    "max_tokens": 32,
    "temperature": 0,
    "cache_prompt": False,
    "ignore_eos": True,
}


@dataclass(slots=True, kw_only=True)
class Choice:
    """program: None for xllamacpp.

    Attributes:
        said: What was found, for people; empty when there was nothing to choose.
    """

    program: str | None = None
    said: str = ""


def choose(
    config: EngineConfig, folder: Path, remark: Callable[[str], None] = lambda _: None
) -> Choice:
    """The faster one for the model of `config`; remark: told before it takes a while.

    Args:
        folder: Where verdicts are kept.
    """
    native = shutil.which(PROGRAM)
    ours = _version()
    if native is None or sys.platform != "linux":
        return Choice()
    if ours is None:
        return Choice(program=native, said=f"{native} runs GGUF files: xllamacpp is not installed")
    path, key = folder / _KEPT, _key(config, native, ours)
    kept = _read(path)
    found: dict[str, Any] | None = kept.get(key)
    if found is None:
        remark(f"Measuring once whether {native} or xllamacpp is faster")
        found = _measure(config, native)
        if set(found) == {"native", "xllamacpp"}:
            write_json(path, kept | {key: found})
    return _verdict(native, found)


def _verdict(native: str, found: dict[str, Any]) -> Choice:
    if "native" not in found:
        return Choice(said=f"xllamacpp runs GGUF files: {native} does not")
    if "xllamacpp" not in found:
        return Choice(program=native, said=f"{native} runs GGUF files: xllamacpp does not")
    ratio = found["xllamacpp"] / found["native"]
    if ratio > _MARGIN:
        return Choice(
            program=native,
            said=f"{native} runs GGUF files: it is {ratio:.2f} times as fast as xllamacpp",
        )
    return Choice(said=f"xllamacpp runs GGUF files: {native} is {ratio:.2f} times as fast")


def _version() -> str | None:
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return None


def _key(config: EngineConfig, native: str, ours: str) -> str:
    """What the answer depends on: both builds, the kind of file, threads and layers on a GPU."""
    real = Path(native).resolve()
    about, file = real.stat(), gguf.read(Path(config.path))
    kind = [
        file.metadata[k].value if k in file.metadata else ""
        for k in ("general.architecture", "general.file_type")
    ]
    size = Path(config.path).stat().st_size.bit_length()
    parts = [
        real,
        about.st_size,
        about.st_mtime_ns,
        ours,
        *kind,
        size,
        config.threads,
        config.gpu_layers,
    ]
    return " ".join(str(p) for p in parts)


def _measure(config: EngineConfig, native: str) -> dict[str, Any]:
    """Seconds of the best turn of each that runs.

    Both map the same file, so they can be in memory together.
    """
    best: dict[str, float] = {}
    with ExitStack() as stack:
        ports: dict[str, tuple[int, str]] = {}
        for name, program in (("xllamacpp", None), ("native", native)):
            small = replace(
                config,
                program=program,
                context=512,
                slots=1,
                draft=None,
                adapters=[],
                key=secrets.token_urlsafe(32),
            )
            run = Run(small)
            stack.callback(run.process.kill)
            try:
                found = _up(run, small.key), small.key
                _time(*found)
                ports[name] = found
            except (OSError, RuntimeError, ValueError, TimeoutError) as error:
                LOG.info("%s does not run %s: %s", program or name, config.path, error)
        begun = time.monotonic()
        for _ in range(_ROUNDS if len(ports) > 1 else 1):
            for name, (port, key) in ports.items():
                best[name] = min(best.get(name, 1e9), _time(port, key))
            if time.monotonic() - begun > _ENOUGH:
                break
    return best


def _up(run: Run, key: str) -> int:
    facts = run.ready.result(_LOADING)
    headers = {"authorization": f"Bearer {key}"}
    end = time.monotonic() + _LOADING
    while time.monotonic() < end and not run.ended.done():
        try:
            request = urllib.request.Request(
                f"http://127.0.0.1:{facts['port']}/health", headers=headers
            )
            with urllib.request.urlopen(request, timeout=5):
                return int(facts["port"])
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("it does not come up")


def _time(port: int, key: str) -> float:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(_ASK).encode(), headers
    )
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=_LOADING) as answer:
        json.loads(answer.read())
    return time.perf_counter() - begun


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
