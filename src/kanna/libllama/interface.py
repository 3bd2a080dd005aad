"""llama.cpp's C interface, loaded after its parameter structures were compared with the header's.

A structure that is laid out in another way than we think crashes or, worse, computes something
else. So before a library is used, its default functions are called: every field must hold the value
that the header's version gives it, and on x86-64, where the callee writes into memory we can mark,
exactly so many bytes must have been written.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kanna.errors import MissingError
from kanna.libllama import functions, installed
from kanna.libllama.builds import INSTALL_NATIVE, NATIVE, PREBUILT, Build, candidates, wanted
from kanna.libllama.structures import ANY, LAYOUTS, Field, HeaderLayout

# More than any of the structures has, so that a longer one is seen.
_ROOM = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A loaded llama.cpp.

    Attributes:
        build: The package it came with.
        functions: Its C functions with their types, by name.
        layout: What its parameter structures look like.
        passed_over: Why a better build is not used; "" if none was.
    """

    build: Build
    functions: Any
    layout: HeaderLayout
    passed_over: str = ""

    @property
    def version(self) -> str:
        """As people read it: the package and llama.cpp's own version."""
        own = self.functions.llama_version().decode("utf-8", "replace")
        return f"{self.build.distribution} {self.build.version}, libllama {own}"


def library() -> Library:
    """The llama.cpp that is used here.

    Raises MissingError when none is installed or it does not load or fit.
    """
    return _chosen(wanted(), NATIVE.folder, PREBUILT.folder)


@cache
def _chosen(choice: str, native: Path | None, prebuilt: Path | None) -> Library:
    """The first build that loads and fits, of those that are installed in these folders."""
    reasons: list[MissingError] = []
    for build in candidates():
        try:
            loaded = load(build)
        except MissingError as error:
            reasons.append(error)
            continue
        return Library(
            build=build,
            functions=loaded.functions,
            layout=loaded.layout,
            passed_over=reasons[0].found if reasons else "",
        )
    raise reasons[-1 if choice == "prebuilt" else 0]


def load(build: Build) -> Library:
    """Load one build; raises MissingError with the reason when that is not possible."""
    return _load(build, build.library())


@cache
def _load(build: Build, path: Path) -> Library:
    if build.installed is not None:
        installed.check(build.installed, path.parent)
    functions_of = open_library(build, path)
    layout = fitting_layout(build, functions_of)
    try:
        functions.declare(functions_of, layout)
    except AttributeError as error:
        raise MissingError(
            f"{build.distribution} {build.version} is another llama.cpp than kanna knows: {error}",
            todo=build.again,
        ) from error
    return Library(build=build, functions=functions_of, layout=layout)


def quantizers() -> Any:
    """Ggml's encoders in the llama.cpp that is used here; raises MissingError."""
    try:
        build = library().build
    except MissingError as error:
        raise MissingError(
            f"this encoding needs ggml's encoder, which llama.cpp brings: {error.found}",
            todo=error.todo or PREBUILT.install,
        ) from error
    return _load_quantizers(build, build.quantizer())


@cache
def _load_quantizers(build: Build, path: Path) -> Any:
    loaded = open_library(build, path)
    functions.declare_quantizers(loaded)
    return loaded


def open_library(build: Build, path: Path) -> Any:
    """Open a shared library; raises MissingError with what is missing."""
    if sys.platform == "win32":
        os.add_dll_directory(str(path.parent))
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        first = error
    if "libgomp" in str(first) and _borrow_openmp():
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            first = error
    todo = build.install
    if "libgomp" in str(first):
        todo = "install OpenMP's runtime: `apt install libgomp1`, or `dnf install libgomp`"
    elif "GLIBC" in str(first):
        todo = "use a newer Linux, or a native build: " + INSTALL_NATIVE
    raise MissingError(
        f"{build.distribution} {build.version} is installed but does not load: {first}", todo=todo
    ) from first


def _borrow_openmp() -> bool:
    """Load the OpenMP runtime that another package carries; whether there is one."""
    spec = importlib.util.find_spec("torch")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted((Path(place) / "lib").glob("libgomp*.so*")):
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            return True
    return False


def fitting_layout(build: Build, loaded: Any) -> HeaderLayout:
    """The layout whose default values the library gives; raises MissingError if none is."""
    problems: list[str] = []
    for layout in LAYOUTS:
        problem = mismatch(loaded, layout)
        if not problem:
            return layout
        problems.append(f"{layout.since}: {problem}")
    raise MissingError(
        f"{build.distribution} {build.version} has parameter structures that kanna does not know "
        f"({'; '.join(problems)})",
        expected="llama.cpp " + " or ".join(layout.since for layout in LAYOUTS),
        todo=build.again,
    )


def mismatch(loaded: Any, layout: HeaderLayout) -> str:
    """Where the library's parameter structures differ from a layout; "" if nowhere."""
    for name, structure, fields in (
        ("llama_model_default_params", layout.model, layout.model_fields),
        ("llama_context_default_params", layout.context, layout.context_fields),
    ):
        try:
            function = getattr(loaded, name)
        except AttributeError:
            return f"there is no {name}"
        size = written_bytes(function)
        end = _end(structure)
        if size is not None and size != end:
            return f"{name} writes {size} bytes, not {end}"
        problem = _differing_value(function, structure, fields)
        if problem:
            return f"{name}: {problem}"
    return ""


def _differing_value(
    function: Any, structure: type[ctypes.Structure], fields: tuple[Field, ...]
) -> str:
    function.restype, function.argtypes = structure, ()
    values = function()
    for name, _, expected in fields:
        value = getattr(values, name)
        if expected is not ANY and value != expected:
            return f"{name} is {value}, not {expected}"
    return ""


def _end(structure: type[ctypes.Structure]) -> int:
    """Bytes up to the end of the last field: what follows is padding, which nobody writes."""
    last: Any = getattr(structure, structure._fields_[-1][0])
    return int(last.offset + last.size)


def written_bytes(function: Any) -> int | None:
    """How many bytes a function writes that returns a large structure; None where unknowable.

    On x86-64 the caller passes the address of the result as the first argument, so that we can pass
    memory of ours, filled with one pattern and then with another: what is equal was written.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return None
    function.restype, function.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    results: list[bytes] = []
    for pattern in (0xAA, 0x55):
        memory = (ctypes.c_ubyte * _ROOM)(*([pattern] * _ROOM))
        function(ctypes.addressof(memory))
        results.append(bytes(memory))
    equal = [i for i, (a, b) in enumerate(zip(*results, strict=True)) if a == b]
    return equal[-1] + 1 if equal else 0
