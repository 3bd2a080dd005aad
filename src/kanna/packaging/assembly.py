"""Package an artefact for deployment.

A package holds the files of a service, a bill of materials, checksums and a signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import formats, signing
from kanna._util import locks
from kanna._util.arguments import names, several
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna.errors import GateError, OutputError, UnsupportedError, UsageError
from kanna.formats.text_files import parse_json, read_text
from kanna.packaging import bom, checksums, targets, watch
from kanna.packaging.artefact import Artefact, open_artefact
from kanna.packaging.libraries import NpmLibrary
from kanna.packaging.readme import readme
from kanna.packaging.resources import resources
from kanna.packaging.selftest_files import require_runtime, selftest_files
from kanna.packaging.service import Service, image_of
from kanna.packaging.tower import require_sight, with_tower
from kanna.packaging.wheel import wheel_to_ship
from kanna.packaging.write import write

EXTRA = "package"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PackageResult(Result):
    """A package that was written.

    Attributes:
        folder: Where it is.
        name: Name of the model in the service, a DNS label.
        kind: Format of the artefact.
        sha256: Hash that names the artefact.
        targets: Targets that were asked for.
        resources: Bytes and cores by purpose.
        files: Paths in the package.
        usage: Shell lines by target.
        signed: Whether it has a signature.
        notes: What the user should know.
    """

    folder: str
    name: str
    kind: str
    sha256: str
    targets: list[str]
    resources: dict[str, Any]
    files: list[str]
    usage: dict[str, list[str]]
    signed: bool
    notes: list[str] = field(default_factory=list[str])

    def headline(self) -> str:
        """Where it is, and for what."""
        return f"{self.folder}: {self.name} for {', '.join(self.targets)}"

    def tables(self) -> list[ResultTable]:
        """The lines that start the service."""
        rows = [(target, "\n".join(lines)) for target, lines in self.usage.items()]
        return [ResultTable(columns=("target", "in the folder"), rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CheckResult(Result):
    """A package that is as it was written.

    Attributes:
        folder: Where it is.
        files: Number of files that were checked.
        signature: `good` by the given key, `not checked` without a key, `none` without a signature.
    """

    folder: str
    files: int
    signature: str

    def headline(self) -> str:
        """What was checked."""
        return f"{self.files} files as they were packaged, signature {self.signature}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return asdict(self)


def package(
    artefact: str | Path,
    out: str | Path,
    *,
    to: str | Sequence[str] = ("docker",),
    name: str | None = None,
    context: int | None = None,
    parallel: int = 4,
    cpus: int = 4,
    image: str | None = None,
    wheel: str | Path | None = None,
    sign_key: str | Path | None = None,
    selftest: bool = False,
    mmproj: str | Path | None = None,
    variant: str | Path | Sequence[str | Path] = (),
    offline: bool = False,
    progress: Progress | None = None,
) -> PackageResult:
    """Write a folder that deploys a file.

    It holds the file, the files of each target, alert rules, a bill of materials and
    SHA256SUMS. The folder gets its name only when it is complete.

    Args:
        artefact: A GGUF or a folder that a runtime loads, or any reference to one.
        out: The folder to write.
        to: Targets, such as `docker` or `systemd`.
        name: Name of the model in the service; None takes that of the file.
        context: Tokens of one request; None takes 4096, or less where the model knows less.
        parallel: Requests at once; one where nothing is served, as in a browser.
        cpus: Cores the service may use.
        image: Reference of the container image that docker, compose and kubernetes use; None makes
            one of the file's name and hash.
        wheel: The wheel of kanna that the package installs, for the machine it will run on; None
            takes the one that this kanna was installed from.
        sign_key: A private key (PEM, P-256, P-384 or P-521) to sign the package with.
        selftest: Take along a self-test: what the file answers here, and a runner of it that
            needs llama.cpp's server and Python alone.
        mmproj: The vision tower of a GGUF, which is shipped and served with it.
        variant: Further folders of the same model, for `ortpackage`: one per execution provider.
        offline: Use only what is on this machine already.
        progress: Where hashing reports how far it is.

    Returns:
        What was written, and the shell lines that start the service.

    Raises:
        OutputError: `out` exists or cannot be written.
        UsageError: A target, a key, a wheel or a number does not serve.
        SourceError: The file does not exist.
        FormatError: The tower is of another model.
        UnsupportedError: A target does not run such a file.
        MissingError: A package that is needed is not installed, or there is no wheel of kanna.
    """
    folder = Path(out)
    if folder.exists() or folder.is_symlink():
        locks.remove_stale(folder)
        raise OutputError(f"{folder} exists", todo="choose another name, or remove it")
    to = names(to)
    _with_needs(to)  # unknown targets are refused before anything is hashed
    if mmproj is not None:
        require_sight(to)
    if sign_key is not None:
        signing.check_key(Path(sign_key))
    arranging = _arranging(to, several(variant))
    opened = open_artefact(artefact, name=name, offline=offline, progress=shown(progress))
    if arranging is not None:
        others = [
            open_artefact(one, offline=offline, progress=shown(progress))
            for one in several(variant)
        ]
        opened = arranging([opened, *others])
    if mmproj is not None:
        opened = with_tower(opened, mmproj, offline=offline, progress=shown(progress))
    _check_kind(_with_needs(to), opened.kind)
    if selftest:
        require_runtime(opened)
    context = context or min(4096, opened.trained_context or 4096)
    chosen = [targets.get(name) for name in _with_needs(to)]
    serves = any(target.serves for target in chosen)
    needed = resources(opened, context=context, parallel=parallel, cpus=cpus, serves=serves)
    installs = wheel is not None or any(target.installs for target in chosen)
    with (
        locks.holding(folder, "package"),
        wheel_to_ship(wheel) if installs else nullcontext() as shipped,
    ):
        service = Service(
            artefact=opened, resources=needed, image=image_of(opened, image), wheel=shipped
        )
        return _assemble(folder, service, to, sign_key, selftest, shown(progress))


def _assemble(
    folder: Path,
    service: Service,
    to: Sequence[str],
    sign_key: str | Path | None,
    with_selftest: bool,
    progress: Progress,
) -> PackageResult:
    """Write the package of a service."""
    artefact = service.artefact
    usage = {target: targets.get(target).usage(service) for target in to}
    texts, libraries = _texts(service, _with_needs(to), usage)
    if with_selftest:
        texts |= selftest_files(artefact)
    copied = dict(artefact.files)
    for library in libraries:
        copied |= library.fetched(progress)
    if service.wheel is not None:
        copied[service.wheel.place] = service.wheel.path
    write(folder, texts, copied, artefact.hashes, sign_key)
    loads = [load for target in to if (load := targets.get(target).loads) is not None]
    loaded = [note for load in loads for note in load(folder)]
    signature = [signing.FILE] if sign_key else []
    return PackageResult(
        folder=str(folder),
        name=artefact.slug,
        kind=artefact.kind,
        sha256=artefact.digest,
        targets=list(to),
        resources=service.resources.to_dict(),
        files=sorted([*texts, *copied, checksums.FILE, *signature]),
        usage=usage,
        signed=sign_key is not None,
        notes=[*_notes(artefact), *loaded],
    )


def check(
    folder: str | Path, *, key: str | Path | None = None, progress: Progress | None = None
) -> CheckResult:
    """Check a package's files, its bill of materials and, with a key, its signature.

    Args:
        folder: A folder that `package` wrote.
        key: The public key of who signed it, as PEM.
        progress: Where hashing reports how far it is.

    Raises:
        GateError: Something differs from what was packaged.
        UsageError: The key is missing or is no public key.
    """
    path = Path(folder)
    if not (path / checksums.FILE).is_file():
        raise GateError(
            f"{path} has no {checksums.FILE}", expected="a folder that kanna package wrote"
        )
    changes = checksums.differences(path, {checksums.FILE, signing.FILE}, progress)
    if changes:
        more = f", and {len(changes) - 8} more" if len(changes) > 8 else ""
        raise GateError(
            f"{path} is not as it was packaged: {', '.join(changes[:8])}{more}",
            todo="package it again",
        )
    text = read_text(path / bom.FILE) if (path / bom.FILE).is_file() else ""
    parse_json(text, bom.FILE)  # its validator's own parser has no limits
    bom.validate(text)
    if key is not None:
        signing.verify(path, Path(key))
    signed = (path / signing.FILE).is_file()
    state = "good" if key is not None else "not checked" if signed else "none"
    return CheckResult(folder=str(path), files=len(checksums.read(path)), signature=state)


def _arranging(
    to: Sequence[str], variants: Sequence[str | Path]
) -> Callable[[Sequence[Artefact]], Artefact] | None:
    """What lays the files of several artefacts out, where a target does."""
    able = [name for name in targets.names() if targets.get(name).arranges is not None]
    wanted = [name for name in to if name in able]
    if variants and not wanted:
        raise UsageError(
            f"--variant {variants[0]} is of no use for {', '.join(to)}",
            expected=f"--to {' or '.join(able)}",
        )
    if wanted and len(to) > 1:
        raise UsageError(f"{wanted[0]} has a layout of its own", expected=f"--to {wanted[0]} alone")
    return targets.get(wanted[0]).arranges if wanted else None


def _with_needs(to: Sequence[str]) -> list[str]:
    """The targets and those whose files they use, each once."""
    if not to:
        raise UsageError("no target was named", expected=", ".join(targets.names()))
    return list(dict.fromkeys(n for name in to for n in (*targets.get(name).needs, name)))


def _check_kind(chosen: Sequence[str], kind: str) -> None:
    """Raise UnsupportedError for a target that does not run such a model."""
    for name in chosen:
        kinds = targets.get(name).kinds
        if kind not in kinds:
            raise UnsupportedError(
                f"{name} does not run {kind}",
                expected=f"a model of kind {' or '.join(kinds)}",
                todo=f"convert the source it was made of: kanna convert SRC --format {kinds[0]}",
            )


def _texts(
    service: Service, chosen: list[str], usage: dict[str, list[str]]
) -> tuple[dict[str, str], list[NpmLibrary]]:
    """Text of every file that is generated, by its path in the package; and libraries."""
    texts: dict[str, str] = {}
    libraries: list[NpmLibrary] = []
    for name in chosen:
        target = targets.get(name)
        texts |= target.files(service)
        libraries += target.libraries(service)
    serves = any(targets.get(name).serves for name in chosen)
    if serves:
        texts |= watch.files(service)
    texts[bom.FILE] = bom.bom(service.artefact, libraries, serves=serves)
    return texts | {"README.md": readme(service, usage, serves=serves)}, libraries


def _notes(artefact: Artefact) -> list[str]:
    notes: list[str] = []
    if artefact.licence is None:
        notes.append("the model names no licence: look at its source before you pass it on")
    known = artefact.kind in formats.names() and formats.get(artefact.kind).keeps_provenance
    if known and not artefact.provenance:
        notes.append("kanna did not write this file: the bill of materials has no sources")
    if not artefact.model.meta("{arch}.block_count"):
        notes.append("the shape of the model is not known: its cache is not counted in the memory")
    return notes
