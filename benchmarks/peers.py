"""The peer: llama.cpp's converter and quantizer, built from the source package of llama-cpp-python.

The tools are built once into the cache. Every measured command runs in a child process of its own,
watched for its peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from kanna import fetch

SOURCE = "llama-cpp-python==0.3.36"
TOOLS = ("llama-quantize", "llama-imatrix", "llama-perplexity")


@dataclass(frozen=True, slots=True)
class Run:
    """One child process: wall seconds, and peak anonymous and resident memory in bytes."""

    seconds: float
    anonymous: int
    resident: int


def tree() -> Path:
    """Folder of llama.cpp's own source."""
    folder = fetch.cache_dir() / "peers"
    found = list(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "-d", str(folder), SOURCE], check=True)
        with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        found = list(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    return found[0]


def tool(name: str) -> Path:
    """Path of a llama.cpp program, built natively on first use (some minutes)."""
    build = Path(os.environ.get("LLAMA_BUILD", fetch.cache_dir() / "peers" / "build"))
    program = build / "bin" / name
    if not program.exists():
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF"]
        subprocess.run(["cmake", "-S", str(tree()), "-B", str(build), *options], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", str(build), "-j", str(os.cpu_count()), "--target", *TOOLS], check=True)
    return program


def run(command: list[str | Path]) -> Run:
    """Run a command and watch its memory 50 times a second; raises if it fails."""
    start = time.perf_counter()
    log = subprocess.PIPE
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=log)
    watched = psutil.Process(process.pid)
    anonymous = resident = 0
    while True:
        try:
            info = watched.memory_info()
            anonymous = max(anonymous, info.rss - info.shared)
            resident = max(resident, info.rss)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            pass
        try:
            _, err = process.communicate(timeout=0.02)
            break
        except subprocess.TimeoutExpired:
            continue
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed ({process.returncode}):\n{err.decode(errors='replace')[-2000:]}")
    return Run(seconds, anonymous, resident)


def quantize(source: Path, out: Path, preset: str, *, threads: int, imatrix: Path | None = None) -> list[str | Path]:
    """Command that quantizes a GGUF with llama-quantize."""
    extra: list[str | Path] = ["--imatrix", imatrix] if imatrix else []
    return [tool("llama-quantize"), "--allow-requantize", *extra, source, out, preset, str(threads)]


def convert(folder: Path, out: Path, outtype: str) -> list[str | Path]:
    """Command that converts a Hugging Face folder with llama.cpp's converter."""
    return [sys.executable, tree() / "convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", outtype]


def kanna(*arguments: str | Path) -> list[str | Path]:
    """Command line of kanna itself, in the same interpreter."""
    return [sys.executable, "-m", "kanna", *arguments, "--quiet"]


def alternate(ours: list[list[str | Path]], theirs: list[list[str | Path]], repeats: int) -> tuple[Run, Run]:
    """Medians of alternating runs; each side is a list of commands whose times add up."""
    sides: tuple[list[Run], list[Run]] = ([], [])
    for _ in range(repeats):
        for side, commands in zip(sides, (ours, theirs), strict=True):
            runs = [run(c) for c in commands]
            peak = [max(getattr(r, name) for r in runs) for name in ("anonymous", "resident")]
            side.append(Run(sum(r.seconds for r in runs), *peak))
    columns = ("seconds", "anonymous", "resident")
    first, second = (Run(*(median(getattr(r, c) for r in side) for c in columns)) for side in sides)
    return first, second


def report(rows: list[dict[str, object]], as_json: bool) -> None:
    """Print rows as JSON or as a Markdown table."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
        print("| " + " | ".join(cells) + " |")
