"""A build of llama.cpp put into the cache: built, loaded, proved on its device, and then named."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna._util import disk, folders, locks, own_files, verified
from kanna._util.atomic import write_json
from kanna._util.bars import shown
from kanna._util.digest import sha256
from kanna._util.nearest import nearest
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna.benchmark.llama_builds import write_model
from kanna.errors import GateError, KannaError, UsageError
from kanna.libllama import PREBUILT, installed
from kanna.libllama.installed import InstalledBuild
from kanna.offload import listing, proof, selection
from kanna.runtime import backends, building, source

RUNTIMES = ("llamacpp",)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class InstallResult(Result):
    """What is installed now.

    Attributes:
        name: What `kanna runtime use` takes.
        backend: What it computes on.
        path: Where it lies; "" for a package.
        version: As llama.cpp says it.
        devices: What it sees here.
        offload: The proof that it computes on them; None where there is none.
        remark: What should be known of it.
        seconds: What it took.
    """

    name: str
    backend: str
    path: str
    version: str
    devices: list[dict[str, Any]]
    offload: dict[str, Any] | None
    remark: str
    seconds: float

    def headline(self) -> str:
        """What it is and sees."""
        seen = ", ".join(d["description"] for d in self.devices if d["kind"] != "cpu")
        return f"{self.name}: {seen or self.remark or 'the CPU'}"

    def tables(self) -> list[ResultTable]:
        """Its checks."""
        checks = (self.offload or {}).get("checks", [])
        rows = [(check["name"], check["detail"]) for check in checks]
        return [ResultTable(columns=("check", "detail"), rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def install(
    runtime: str = "llamacpp",
    *,
    backend: str = "cpu",
    native: bool = False,
    source: str | Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> InstallResult:
    """Build llama.cpp for a backend into the cache, beside others, and prove that it works.

    An interrupted build goes on where it stopped. For the CPU the package that kanna brings is
    taken, unless `native` asks for one that uses all of this CPU.

    Args:
        runtime: `llamacpp`.
        backend: cpu, cuda, vulkan, metal, opencl, sycl or rocm.
        native: Compile its code for this CPU; it then runs on no older one.
        source: The source package of llama-cpp-python, or a folder with llama.cpp; None: the pinned
            version, from the package index.
        jobs: Compilers at a time; None: one per processor.
        progress: Where progress is reported; None: a bar in terminals and notebooks.

    Raises:
        UsageError: No such runtime or backend.
        MissingError: A program or a library is absent that builds it.
        KannaError: It does not compile.
        GateError: It computes nonsense, or not on its device.
    """
    begin = time.perf_counter()
    if runtime not in RUNTIMES:
        raise UsageError(
            f"no runtime {runtime!r}{nearest(runtime, RUNTIMES)}",
            expected=" or ".join(RUNTIMES) + ": the others are packages, see `kanna doctor`",
        )
    selection.check(backend)
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs", expected="1 or more")
    bar = shown(progress)
    if backend == "cpu" and not native and PREBUILT.folder is not None and source is None:
        return _package(begin)
    backends.require(backend)
    folders.own_cache_folder()
    order = _Order(backend=backend, native=native, jobs=jobs or os.cpu_count() or 1)
    build, remark = _installed(order, source, bar)
    seen = listing.look(choice=build.name)
    offload = None if seen.why else _proved(build, bar)
    return InstallResult(
        name=build.name,
        backend=backend,
        path=str(build.folder),
        version=seen.version,
        devices=seen.devices,
        offload=offload,
        remark="; ".join(filter(None, (remark, seen.why))),
        seconds=time.perf_counter() - begin,
    )


def _package(begin: float) -> InstallResult:
    """The prebuilt llama.cpp, which is a package and here already."""
    seen = listing.look(choice=PREBUILT.name)
    return InstallResult(
        name=PREBUILT.name,
        backend="cpu",
        path="",
        version=seen.version,
        devices=seen.devices,
        offload=None,
        remark=f"{PREBUILT.distribution} is prebuilt for it; --native builds one for this CPU",
        seconds=time.perf_counter() - begin,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is built, and with how many compilers at a time."""

    backend: str
    native: bool
    jobs: int

    def name(self, version: str) -> str:
        return f"{version}-{self.backend}" + ("-native" if self.native else "")


def _installed(
    order: _Order, given: str | Path | None, progress: Progress
) -> tuple[InstalledBuild, str]:
    """The build, which is made if it is not there as it was made; and a remark."""
    working = installed.home() / f"building-{order.name('any')}"
    with locks.holding(working, "install a runtime", parents=True):
        if given is None and (there := _there(order.name(source.VERSION))) is not None:
            return there, "it was installed already"
        with source.located(given, progress) as archive:
            place = working / f"source-{archive.sha256[:16] or 'folder'}"
            version = archive.version
            if not place.is_dir() or not archive.sha256:
                version = source.unpack(archive, place, progress)
            version = version or source.version_of(place)
            there = _there(order.name(version))
            if there is not None and archive.sha256 and there.source_sha256 == archive.sha256:
                return there, "it was installed already"
            definitions = building.options(order.backend, order.native, working)
            made = building.build(
                place, working / "build", order.backend, definitions, order.jobs, progress
            )
            build = _put(order, version, archive.sha256, definitions, made)
        own_files.remove(working)
    return build, ""


def _there(name: str) -> InstalledBuild | None:
    """A build of that name that is as it was installed."""
    if name not in installed.names():
        return None
    try:
        build = installed.read(installed.home() / name)
        installed.check(build, build.folder)
    except KannaError:
        return None
    return build


def _put(
    order: _Order, version: str, digest: str, definitions: tuple[str, ...], libraries: list[Path]
) -> InstalledBuild:
    """Copy the libraries, see that they load, and give the folder its name."""
    name = order.name(version)
    final = installed.home() / name
    made = own_files.fresh_name(final)
    try:
        made.mkdir(parents=True)
        for library in libraries:
            _copy(library, made / library.name)
        files = {library.name: sha256(made / library.name) for library in libraries}
        build = InstalledBuild(
            name=name,
            version=version,
            backend=order.backend,
            native=order.native,
            source_sha256=digest,
            options=definitions,
            files=files,
        )
        about = {"machine": platform.machine(), "system": platform.system()}
        write_json(made / installed.MANIFEST, build.to_dict() | {"built_on": about})
        seen = listing.look(folder=made)
        if not seen.ok:
            raise KannaError(
                f"what was built of llama.cpp {version} for {order.backend} is not usable: "
                f"{seen.why}",
                todo=f"--source with {source.PACKAGE} {source.VERSION}, which kanna knows",
            )
        verified.record(made, final)
        own_files.put(made, final)
    finally:
        own_files.remove(made)
    return build


def _copy(library: Path, copy: Path) -> None:
    """Copy a library; a link becomes the file that it names."""
    try:
        shutil.copy(library, copy)
    except OSError as error:
        raise disk.explain(error, copy) from error


def _proved(build: InstalledBuild, progress: Progress) -> dict[str, Any]:
    """The proof that a new build computes on its device, with a small model of chance."""
    with own_files.scratch() as folder:
        model = folder / "trial.gguf"
        write_model(model)
        proved = proof.prove_with(build.name, model, build.backend, progress=progress)
    for check in proved.checks:
        if not check.ok:
            raise GateError(
                f"{build.name} was built, and is not right here: {check.name}: {check.detail}",
                expected="all operators on the device, with the logits of the CPU",
                todo=f"another driver; kanna runtime rm {build.name} removes it",
            )
    return proved.to_dict()
