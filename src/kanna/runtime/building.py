"""llama.cpp built by cmake and ninja, which go on where an interrupted run stopped."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from kanna._util.bound_program import bound
from kanna._util.processes import started
from kanna._util.progress import Progress
from kanna.errors import KannaError, MissingError, OutputError
from kanna.hardware.cpu import run
from kanna.runtime.backends import BUILT, path_of

_STEP = re.compile(r"^\[(\d+)/(\d+)\]\s*(.*)")
_ABSENT = re.compile(
    r"Could NOT find (\w+)|No CMAKE_(\w+)_COMPILER|package configuration file|target was not found"
)
_TELLING = re.compile(r"Could NOT find|\berror\b|Error:|fatal|No such file", re.IGNORECASE)
_FOUND = re.compile(r'Found (?=\w+:.*found version "(\d+(?:\.\d+)+)")(\w+):')
_OFF = (
    "LLAMA_BUILD_COMMON",
    "LLAMA_BUILD_TESTS",
    "LLAMA_BUILD_TOOLS",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_SERVER",
    "LLAMA_BUILD_APP",
    "LLAMA_OPENSSL",
    "GGML_CCACHE",
)
_SUFFIXES = (".so", ".dylib", ".dll", ".metallib")


def options(backend: str, native: bool, folder: Path) -> tuple[str, ...]:
    """What cmake is told to build a backend, without -D.

    Args:
        backend: A name in BUILT.
        native: Whether the CPU's code is compiled for this one.
        folder: Where it is built, for what the options need.
    """
    built = BUILT[backend]
    return (
        "CMAKE_BUILD_TYPE=Release",
        "BUILD_SHARED_LIBS=ON",
        "GGML_BACKEND_DL=ON",
        f"GGML_NATIVE={'ON' if native else 'OFF'}",
        *(f"{name}=OFF" for name in _OFF),
        # The libraries find each other wherever the folder lies, and those of the device's vendor
        # where they were.
        "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        "CMAKE_INSTALL_RPATH=$ORIGIN",
        "CMAKE_INSTALL_RPATH_USE_LINK_PATH=ON",
        *_standard_library(),
        "LLAMA_BUILD_NUMBER=0",
        "LLAMA_BUILD_COMMIT=package",
        *built.options,
        *built.own_options(folder),
    )


def _standard_library() -> tuple[str, ...]:
    """Options for one C++ standard library in the process, on Linux.

    Some compilers link it into each library, which then exports it: a stream of one library comes
    to a locale of another, and the process ends. So the system's is named first, and what is taken
    from archives all the same is not exported.
    """
    if sys.platform != "linux":
        return ()
    own = [f for f in os.environ.get("LDFLAGS", "").split() if not f.startswith("-static-lib")]
    hidden = " ".join([*own, "-Wl,--exclude-libs,ALL"])
    flags = (f"CMAKE_SHARED_LINKER_FLAGS={hidden}", f"CMAKE_MODULE_LINKER_FLAGS={hidden}")
    compiler = os.environ.get("CXX", "") or path_of("c++", "g++", "clang++")
    shared = Path(run(compiler, "-print-file-name=libstdc++.so.6").strip()) if compiler else Path()
    if not shared.is_absolute() or not shared.is_file():
        return flags
    return (*flags, f"CMAKE_CXX_STANDARD_LIBRARIES={shared.resolve()}")


def build(
    source: Path, folder: Path, backend: str, settings: Sequence[str], jobs: int, progress: Progress
) -> list[Path]:
    """Configure and build; returns the libraries.

    Args:
        source: llama.cpp's own folder.
        folder: Where it is built; what an interrupted run left in it is used.
        backend: A name in BUILT.
        settings: `options` of it.
        jobs: Compilers at a time.
        progress: Where progress is reported.

    Raises:
        MissingError: cmake finds no compiler or library of the backend.
        OutputError: The disk is full.
        KannaError: A file does not compile.
    """
    ninja = path_of("ninja", "ninja-build")
    definitions = [f"-D{option}" for option in (*settings, f"CMAKE_MAKE_PROGRAM={ninja}")]
    configure = [path_of("cmake"), "-G", "Ninja", "-S", str(source), "-B", str(folder)]
    # What cmake saw last time is looked for anew: headers that were too old then may be others now.
    (folder / "CMakeCache.txt").unlink(missing_ok=True)
    progress.start("configure llama.cpp", None, "lines")
    try:
        code, last = _follow([*configure, *definitions], progress, steps=False)
    finally:
        progress.finish()
    if code:
        require_room(folder, last)
        raise _not_configured(backend, last)
    require_version(backend, last)
    command = [ninja, "-C", str(folder), f"-j{jobs}", "llama", "ggml-cpu"]
    progress.start(f"build llama.cpp for {backend}", None, "files")
    try:
        code, last = _follow([*command, BUILT[backend].target], progress, steps=True)
    finally:
        progress.finish()
    if code:
        require_room(folder, last)
        raise KannaError(
            f"llama.cpp for {backend} does not compile: {_reason(last)}",
            expected="a compiler and libraries of the backend that this version knows",
            todo=f"the whole output: {' '.join(command)}; the next install goes on from here",
        )
    return libraries(folder)


def libraries(folder: Path) -> list[Path]:
    """The libraries that were built, each under the name that others load it by.

    Args:
        folder: Where they were built.
    """
    places = (folder / "bin", folder / "lib")
    return sorted(
        p
        for place in places
        if place.is_dir()
        for p in place.iterdir()
        if any(part in _SUFFIXES for part in p.suffixes) and not _is_full_version(p)
    )


def _is_full_version(path: Path) -> bool:
    """Whether it is the file behind `libggml.so.0`: `libggml.so.0.25.3`, which nobody names."""
    return bool(re.search(r"\.so\.\d+\.\d+|\.\d+\.\d+\.\d+\.dylib$", path.name))


def _follow(command: Sequence[str], progress: Progress, *, steps: bool) -> tuple[int, list[str]]:
    """Run a command and show its steps; its code and its last lines."""
    last: deque[str] = deque(maxlen=200)
    done = 0
    variables = {"NINJA_STATUS": "[%f/%t] "}
    with started(bound(command), merged=True, variables=variables) as child:
        assert child.stdout is not None
        begun = False
        for line in child.stdout:
            last.append(line.rstrip())
            step = _STEP.match(line) if steps else None
            if step is None:
                progress.advance(0 if steps else 1)
                continue
            if not begun:
                progress.finish()
                progress.start("build llama.cpp", int(step[2]), "files")
                begun = True
            progress.advance(max(0, int(step[1]) - done), step[3].rpartition("/")[2].strip())
            done = max(done, int(step[1]))
    return child.returncode, list(last)


def require_version(backend: str, lines: Sequence[str]) -> None:
    """Raise MissingError for headers that llama.cpp does not compile with, before it is tried.

    Args:
        backend: A name in BUILT.
        lines: What cmake printed.
    """
    least = BUILT[backend].least
    versions = [m[1] for line in lines if (m := _FOUND.search(line)) and m[2].lower() == backend]
    if least and versions and tuple(map(int, versions[-1].split("."))) < least:
        wanted = ".".join(map(str, least))
        raise MissingError(
            f"the headers of {backend} here are {versions[-1]}",
            expected=f"{wanted} or newer, which this llama.cpp is written for",
            todo=BUILT[backend].headers,
        )


def require_room(folder: Path, lines: Sequence[str]) -> None:
    """Raise OutputError where a compiler found the disk full, which says nothing of the source.

    Args:
        folder: Where it is built.
        lines: What cmake or ninja printed.
    """
    if any(os.strerror(errno.ENOSPC) in line for line in lines):
        raise OutputError(
            f"the disk of {folder} is full",
            todo="free some space, and the next install goes on from here; or name a folder on "
            "another disk by KANNA_CACHE",
        )


def _not_configured(backend: str, last: Sequence[str]) -> KannaError:
    text = "\n".join(last)
    headers = BUILT[backend].headers
    if _ABSENT.search(text):
        return MissingError(
            f"cmake cannot prepare llama.cpp for {backend}: {_reason(last)}",
            expected=f"what it is built with: {headers or 'a C++ compiler'}",
            todo=headers or "apt install g++",
        )
    return KannaError(
        f"cmake cannot prepare llama.cpp for {backend}: {_reason(last)}",
        todo=headers or "look at the version of cmake and of the compiler",
    )


def _reason(lines: Sequence[str]) -> str:
    """The line that says why, the last one otherwise."""
    useful = [line.strip() for line in lines if line.strip() and "git repository" not in line]
    for number, line in enumerate(useful):
        if line.startswith("CMake Error"):  # the reason is below it, among what cmake said before
            below = [one for one in useful[number + 1 :] if not one.startswith(("--", "CMAKE_"))]
            return " ".join([line, *below[:3]])
        if _TELLING.search(line):
            return line
    return useful[-1] if useful else "no message"
