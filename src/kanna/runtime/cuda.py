"""What a build for CUDA is told of this machine: its cards, and where the toolkit's libraries are.

A toolkit may lack cuBLAS, which then comes with the packages that PyTorch brings; and a machine
that only builds has no driver to link with.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from kanna.hardware.cpu import run

_LIBRARIES = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib/x64")
_SYSTEM = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")


def options(folder: Path) -> tuple[str, ...]:
    """Options of cmake, without -D.

    Args:
        folder: For headers that are needed alone.
    """
    return (*_architectures(), *_cublas(folder), *_driver())


def _architectures() -> tuple[str, ...]:
    """The processors of the cards that are here; without one, those that ggml knows, for hours."""
    if not shutil.which("nvidia-smi"):
        return ()
    lines = run("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").split()
    numbers = sorted({line.replace(".", "") for line in lines if line.replace(".", "").isdigit()})
    if not numbers:
        return ()
    return ("CMAKE_CUDA_ARCHITECTURES=" + ";".join(f"{number}-real" for number in numbers),)


def _cublas(folder: Path) -> tuple[str, ...]:
    """Where cuBLAS is, if not in the toolkit.

    Its headers are copied: those of the runtime that lie beside them are of another version than
    the compiler, whose own must come first.
    """
    if any((place / "libcublas.so").exists() for place in _library_folders()):
        return ()
    for package in _packages():
        for library in sorted((package / "lib").glob("libcublas.so.*")):
            headers = sorted((package / "include").glob("cublas*.h"))
            if any(path.name == "cublas_v2.h" for path in headers):
                own = folder / "cublas"
                own.mkdir(parents=True, exist_ok=True)
                for path in headers:
                    shutil.copy(path, own / path.name)
                return f"CUDA_cublas_LIBRARY={library}", f"CMAKE_CUDA_FLAGS=-I{own}"
    return ()


def _driver() -> tuple[str, ...]:
    """Without the driver's library to link with, its memory is managed in the older way."""
    stubs = [folder / "stubs" / "libcuda.so" for folder in _library_folders()]
    plain = [folder / "libcuda.so" for folder in _library_folders()]
    return () if any(path.exists() for path in (*stubs, *plain)) else ("GGML_CUDA_NO_VMM=ON",)


def _library_folders() -> Iterator[Path]:
    """Folders of the toolkit's libraries."""
    roots = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        roots.append(str(Path(nvcc).resolve().parent.parent))
    for root in filter(None, roots):
        for name in _LIBRARIES:
            yield Path(root) / name
    yield from map(Path, _SYSTEM)


def _packages() -> Iterator[Path]:
    """Folders of NVIDIA's packages for Python, which have `lib` and `include`."""
    for place in sys.path:
        yield from sorted(Path(place or ".").glob("nvidia/cu*"), reverse=True)
