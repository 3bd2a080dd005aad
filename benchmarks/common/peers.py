"""The peer: llama.cpp's converter and quantizer, built from the source package of llama-cpp-python.

The tools are built once into the cache. Every measured command runs in a child process of its own,
watched for its peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from kanna.sources import packages

SOURCE = "llama-cpp-python==0.3.36"
TOOLS = ("llama-quantize", "llama-imatrix", "llama-perplexity")


@dataclass(frozen=True, slots=True)
class Run:
    """One child process: wall and CPU seconds, and peak anonymous and resident memory in bytes."""

    seconds: float
    cpu: float
    anonymous: int
    resident: int


def tree() -> Path:
    """Folder of llama.cpp's own source."""
    folder = packages.cache_dir() / "peers"
    found = list(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
        ]
        subprocess.run([*command, "-d", str(folder), SOURCE], check=True)
        with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        found = list(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    return found[0]


def tool(name: str) -> Path:
    """Path of a llama.cpp program, built natively on first use (some minutes)."""
    build = Path(os.environ.get("LLAMA_BUILD", packages.cache_dir() / "peers" / "build"))
    program = build / "bin" / name
    if not program.exists():
        options = [
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=ON",
            "-DLLAMA_CURL=OFF",
            "-DLLAMA_BUILD_TESTS=OFF",
        ]
        subprocess.run(
            ["cmake", "-S", str(tree()), "-B", str(build), *options],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(
            ["cmake", "--build", str(build), "-j", str(os.cpu_count()), "--target", *TOOLS],
            check=True,
        )
    return program


def run(
    command: list[str | Path], *, tree: bool = False, cwd: Path | None = None, **more: str
) -> Run:
    """Run a command and watch its memory 100 times a second; raises if it fails.

    tree: count its children's memory with its own, and the CPU time of those it waited for; more:
    environment
    """
    anonymous = resident = done = status = 0
    usage: resource.struct_rusage | None = None
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        # Installed packages have their bytecode; without this, a checkout would be compiled again
        # in every run.
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | more
        process = subprocess.Popen(
            [str(c) for c in command], stdout=subprocess.DEVNULL, stderr=log, env=env, cwd=cwd
        )
        watched = psutil.Process(process.pid)
        while not done:
            with suppress(psutil.Error):
                infos = [
                    p.memory_info()
                    for p in (watched, *(watched.children(recursive=True) if tree else ()))
                ]
                anonymous = max(anonymous, sum(i.rss - i.shared for i in infos))
                resident = max(resident, sum(i.rss for i in infos))
            time.sleep(0.01)
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            text = log.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{command[0]} failed ({process.returncode}):\n{text}")
    assert usage is not None
    return Run(seconds, usage.ru_utime + usage.ru_stime, anonymous, resident)


def quantize(
    source: Path, out: Path, preset: str, *, threads: int, imatrix: Path | None = None
) -> list[str | Path]:
    """Command that quantizes a GGUF with llama-quantize."""
    extra: list[str | Path] = ["--imatrix", imatrix] if imatrix else []
    return [tool("llama-quantize"), "--allow-requantize", *extra, source, out, preset, str(threads)]


def convert(folder: Path, out: Path, outtype: str) -> list[str | Path]:
    """Command that converts a Hugging Face folder with llama.cpp's converter."""
    return [
        sys.executable,
        tree() / "convert_hf_to_gguf.py",
        folder,
        "--outfile",
        out,
        "--outtype",
        outtype,
    ]


def kanna(*arguments: str | Path) -> list[str | Path]:
    """Command line of kanna itself, in the same interpreter."""
    return [sys.executable, "-m", "kanna", *arguments, "--quiet"]


def together(commands: list[list[str | Path]]) -> Run:
    """Several commands as one: times add up, the largest peak counts."""
    runs = [run(c) for c in commands]
    anonymous, resident = max(r.anonymous for r in runs), max(r.resident for r in runs)
    return Run(sum(r.seconds for r in runs), sum(r.cpu for r in runs), anonymous, resident)


def alternate(
    ours: list[list[str | Path]], theirs: list[list[str | Path]], repeats: int
) -> tuple[Run, Run]:
    """Medians of alternating runs, after one of each that only warms the disk's cache."""
    pairs = [(together(ours), together(theirs)) for _ in range(repeats + 1)][1:]
    columns = ("seconds", "cpu", "anonymous", "resident")
    first, second = (
        Run(*(median(getattr(r, c) for r in side) for c in columns))
        for side in zip(*pairs, strict=True)
    )
    return first, second


def report(rows: list[dict[str, object]], as_json: bool) -> None:
    """Print rows as JSON or as a Markdown table."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("no rows")
        return
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
        print("| " + " | ".join(cells) + " |")
