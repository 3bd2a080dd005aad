"""Which build of llama.cpp is used here.

A prebuilt one, one that was compiled for this CPU, or one that `kanna runtime install` built.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kanna._util import extras
from kanna._util.nearest import nearest
from kanna.errors import KannaError, MissingError, UsageError
from kanna.libllama import installed
from kanna.libllama.installed import InstalledBuild

VARIABLE = "KANNA_LLAMACPP"
"""The environment variable that names the build: `prebuilt`, `native`, `auto`, or an installed one
by its name or its backend."""

CHOICES = ("auto", "prebuilt", "native")

INSTALL_NATIVE = (
    'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python==0.3.36 '
    "--no-binary llama-cpp-python"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A package that carries llama.cpp as a library with a C interface.

    Attributes:
        name: `prebuilt`, `native`, or that of an installed one.
        distribution: The package, as pip knows it.
        module: What it is imported as.
        libraries: Where the library lies in the folder of the module, the first that exists.
        quantizers: The same for the library with `ggml_quantize_chunk`.
        own_install: The command that installs it; empty: an extra of kanna's brings it.
        installed: What `kanna runtime install` wrote of it; None for a package.
        place: Where its libraries lie, if it is no package.
    """

    name: str
    distribution: str
    module: str
    libraries: tuple[str, ...]
    quantizers: tuple[str, ...]
    own_install: str = ""
    installed: InstalledBuild | None = None
    place: Path | None = None

    @property
    def backend(self) -> str:
        """What it was built to compute on; "cpu" for packages, which say what else they can."""
        return self.installed.backend if self.installed else "cpu"

    @property
    def install(self) -> str:
        """The command that installs it."""
        return self.own_install or extras.command("llamacpp")

    @property
    def again(self) -> str:
        """The command that installs it anew, where what is there is not right."""
        if self.installed is not None:
            return f"kanna runtime rm {self.name}; {self.install}"
        return f"{self.install} --force-reinstall"

    @property
    def folder(self) -> Path | None:
        """Where the module lies; None where it is not installed. Nothing is imported."""
        if self.place is not None:
            return self.place
        try:
            spec = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):  # a module that is set to None
            return None
        places = spec.submodule_search_locations if spec else None
        return Path(next(iter(places))) if places else None

    @property
    def version(self) -> str:
        """Version of the package; empty where it is not installed."""
        if self.installed is not None:
            return self.installed.name
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return ""

    def library(self) -> Path:
        """The file with llama.cpp's C interface; raises MissingError."""
        return self._first(self.libraries)

    def quantizer(self) -> Path:
        """The file with ggml's encoders; raises MissingError."""
        return self._first(self.quantizers)

    def _first(self, names: tuple[str, ...]) -> Path:
        folder = self.folder
        if folder is None:
            raise MissingError(
                "llama.cpp is not installed here",
                expected=f"the package {self.distribution}",
                todo=self.install,
            )
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise MissingError(
            f"{self.distribution} {self.version} in {folder} has no {names[0]}",
            todo=self.again,
        )


def _names(stem: str, folder: str = "") -> tuple[str, ...]:
    """Names of a shared library on every system, this one's first."""
    names = {
        "linux": (f"{folder}lib{stem}.so", f"{folder}lib{stem}.so.0"),
        "darwin": (f"{folder}lib{stem}.dylib",),
        "win32": (f"{folder}{stem}.dll", f"{folder}lib{stem}.dll"),
    }
    mine = names.get(sys.platform, names["linux"])
    return (*mine, *(n for other in names.values() for n in other if n not in mine))


_EXTENSION = ("xllamacpp.abi3.so", "xllamacpp.so", "xllamacpp.pyd")

XLLAMACPP = Build(
    name="prebuilt",
    distribution="xllamacpp",
    module="xllamacpp",
    libraries=_EXTENSION,
    quantizers=_EXTENSION,
)
"""Linux and macOS: one extension module with all of llama.cpp, whose C symbols it exports."""

PY_SYNC = Build(
    name="prebuilt",
    distribution="llama-cpp-py-sync",
    module="llama_cpp_py_sync",
    libraries=_names("llama"),
    quantizers=_names("ggml-base"),
)
"""Windows, where an extension module exports nothing but its own entry."""

NATIVE = Build(
    name="native",
    distribution="llama-cpp-python",
    module="llama_cpp",
    libraries=_names("llama", "lib/"),
    quantizers=_names("ggml-base", "lib/"),
    own_install=INSTALL_NATIVE,
)

PREBUILT = PY_SYNC if sys.platform == "win32" else XLLAMACPP


def of_installed(build: InstalledBuild, folder: Path | None = None) -> Build:
    """A build that `kanna runtime install` made.

    Args:
        build: What its manifest says.
        folder: Where its libraries lie; None: under its name.
    """
    return Build(
        name=build.name,
        distribution="llama.cpp",
        module="",
        libraries=_names("llama"),
        quantizers=_names("ggml-base"),
        own_install=f"kanna runtime install llamacpp --backend {build.backend}",
        installed=build,
        place=folder or build.folder,
    )


def wanted() -> str:
    """What the environment asks for, else what `kanna runtime use` chose, else `auto`.

    One of CHOICES or the name of an installed build; raises UsageError for anything else.
    """
    choice = os.environ.get(VARIABLE, "").strip()
    source = VARIABLE
    if not choice:
        choice, source = installed.in_use(), "kanna runtime use"
    if not choice or choice.lower() in CHOICES:
        return choice.lower() or "auto"
    build = installed.find(choice)
    if build is None:
        known = [*CHOICES, *installed.names()]
        raise UsageError(
            f"{source}={choice}{nearest(choice, known)}",
            expected=" or ".join(known),
            todo="kanna runtime list",
        )
    return build.name


def _packages() -> bool:
    """Whether a package with llama.cpp is here."""
    return NATIVE.folder is not None or PREBUILT.folder is not None


def candidates() -> Iterator[Build]:
    """Builds to try, the best first.

    `auto`: a native build if there is one, since nothing of kanna installs it unasked; else the
    prebuilt one; where no package is here, the newest that was installed. Of an installed build
    that was chosen there is no other: who asked for a GPU must not get the CPU.
    """
    choice = wanted()
    if choice not in CHOICES:
        yield of_installed(installed.get(choice))
        return
    newest = installed.names()[:1] if choice == "auto" and not _packages() else []
    for name in newest:
        yield of_installed(installed.get(name))
    if choice == "native" or (choice == "auto" and NATIVE.folder is not None):
        yield NATIVE
    if choice != "native":
        yield PREBUILT


def in_use() -> str:
    """The package of llama.cpp that would be loaded, with its version; "" without one."""
    with suppress(KannaError):  # a choice that cannot be kept is told where it is loaded
        for build in candidates():
            if build.version:
                return f"{build.name} {build.distribution} {build.version}"
    return ""
