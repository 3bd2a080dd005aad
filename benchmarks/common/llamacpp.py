"""llama.cpp's converter and tools, built from the source package of llama-cpp-python.

The tools are built once into the cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import processes

from kanna.sources import packages

SOURCE = "llama-cpp-python==0.3.36"
TOOLS = ("llama-quantize", "llama-imatrix", "llama-perplexity")
BUILD_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
)


def source_tree() -> Path:
    """Folder of llama.cpp's own source."""
    folder = packages.cache_dir() / "peers"
    pattern = "llama_cpp_python-*/vendor/llama.cpp"
    if not any(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        options = ["-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, SOURCE], check=True)
        with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
    return next(folder.glob(pattern))


def tool(name: str) -> Path:
    """Path of a llama.cpp program, built natively on first use (some minutes)."""
    build = Path(os.environ.get("LLAMA_BUILD", packages.cache_dir() / "peers" / "build"))
    program = build / "bin" / name
    if not program.exists():
        configure = ["cmake", "-S", str(source_tree()), "-B", str(build), *BUILD_OPTIONS]
        subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
        compile_ = ["cmake", "--build", str(build), "-j", str(os.cpu_count()), "--target", *TOOLS]
        subprocess.run(compile_, check=True)
    return program


def quantize(
    source: Path, out: Path, preset: str, *, threads: int, imatrix: Path | None = None
) -> list[str | Path]:
    """Command that quantizes a GGUF with llama-quantize."""
    extra: list[str | Path] = ["--imatrix", imatrix] if imatrix else []
    return [tool("llama-quantize"), "--allow-requantize", *extra, source, out, preset, str(threads)]


def convert(folder: Path, out: Path, outtype: str) -> list[str | Path]:
    """Command that converts a Hugging Face folder with llama.cpp's converter."""
    script = source_tree() / "convert_hf_to_gguf.py"
    return [sys.executable, script, folder, "--outfile", out, "--outtype", outtype]


def make_imatrix(source: Path, text: Path, out: Path, options: Sequence[object]) -> Path:
    """Write llama-imatrix's matrix of a GGUF on a text, with these options of its own."""
    files: list[str | Path] = ["-m", source, "-f", text, "-o", out]
    processes.run([tool("llama-imatrix"), *files, *map(str, options)])
    return out
