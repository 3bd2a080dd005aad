"""What each backend of llama.cpp needs to be built, and what cmake is told."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kanna._util import interpreter
from kanna.errors import MissingError
from kanna.runtime import cuda


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that a build runs.

    Attributes:
        names: Any of these.
        package: How to get it.
    """

    names: tuple[str, ...]
    package: str


def _no_options(_folder: Path) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendBuild:
    """How llama.cpp is built for a backend.

    Attributes:
        target: ggml's library of it.
        options: What cmake is told, without -D.
        programs: What must be here.
        headers: What brings the libraries that cmake looks for.
        least: Oldest version of them that llama.cpp compiles with; () for any.
        system: `sys.platform` where it is built; "" for any.
        own_options: More options, by what is on this machine, given a folder for what they need.
    """

    target: str
    options: tuple[str, ...] = ()
    programs: tuple[Program, ...] = ()
    headers: str = ""
    least: tuple[int, ...] = ()
    system: str = ""
    own_options: Callable[[Path], tuple[str, ...]] = _no_options


BUILT: dict[str, BackendBuild] = {
    "cpu": BackendBuild(target="ggml-cpu"),
    "cuda": BackendBuild(
        target="ggml-cuda",
        options=("GGML_CUDA=ON", "GGML_CUDA_FA_ALL_QUANTS=OFF", "GGML_CUDA_NCCL=OFF"),
        programs=(
            Program(names=("nvcc",), package="install the CUDA toolkit, with its bin on the PATH"),
        ),
        headers="the CUDA toolkit with cuBLAS, or pip install nvidia-cublas beside its compiler",
        own_options=cuda.options,
    ),
    "vulkan": BackendBuild(
        target="ggml-vulkan",
        options=("GGML_VULKAN=ON",),
        programs=(Program(names=("glslc",), package="apt install glslc"),),
        headers="apt install libvulkan-dev spirv-headers (of Debian 13, Ubuntu 24.04 or newer), or "
        "VULKAN_SDK with newer headers",
        least=(1, 3, 272),  # VK_EXT_layer_settings
    ),
    "metal": BackendBuild(
        target="ggml-metal",
        options=("GGML_METAL=ON", "GGML_METAL_EMBED_LIBRARY=ON"),
        headers="xcode-select --install",
        system="darwin",
    ),
    "opencl": BackendBuild(
        target="ggml-opencl",
        options=("GGML_OPENCL=ON", "GGML_OPENCL_EMBED_KERNELS=ON"),
        headers="apt install ocl-icd-opencl-dev opencl-headers",
    ),
    "sycl": BackendBuild(
        target="ggml-sycl",
        options=("GGML_SYCL=ON", "CMAKE_C_COMPILER=icx", "CMAKE_CXX_COMPILER=icpx"),
        programs=(
            Program(names=("icpx",), package="install Intel's oneAPI, with its setvars.sh sourced"),
        ),
        headers="Intel's oneAPI",
    ),
    "rocm": BackendBuild(
        target="ggml-hip",
        options=("GGML_HIP=ON",),
        programs=(Program(names=("hipcc", "amdclang++"), package="install AMD's ROCm"),),
        headers="AMD's ROCm",
    ),
}

_GENERAL = (
    Program(names=("cmake",), package="pip install cmake"),
    Program(names=("ninja", "ninja-build"), package="pip install ninja"),
)
_COMPILER = Program(names=("c++", "g++", "clang++", "cl"), package="apt install g++")


def require(name: str) -> None:
    """Raise MissingError where a program is absent that builds a backend.

    Args:
        name: Of a backend in BUILT.
    """
    backend = BUILT[name]
    if backend.system and sys.platform != backend.system:
        raise MissingError(
            f"{name} is built on {backend.system} alone, and this is {sys.platform}",
            expected="a Mac" if backend.system == "darwin" else backend.system,
            todo="another backend: `kanna doctor` shows what this machine has",
        )
    compiler = () if os.environ.get("CXX") else (_COMPILER,)
    for program in (*_GENERAL, *compiler, *backend.programs):
        if not path_of(*program.names):
            raise MissingError(
                f"{program.names[0]} is not here, which builds llama.cpp for {name}",
                expected=" or ".join(program.names) + " on the PATH",
                todo=program.package,
            )


def path_of(*names: str) -> str:
    """Where a program lies, beside this Python or on the PATH; "" where it does not.

    Args:
        names: Any of these.
    """
    places = os.pathsep.join([str(interpreter.folder()), os.environ.get("PATH", "")])
    return next(filter(None, (shutil.which(name, path=places) for name in names)), "")
