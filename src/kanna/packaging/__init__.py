"""Package an artefact for where it runs.

Files that deploy it, what it is made of, checksums, a signature.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna.errors import GateError, OutputError, UnsupportedError, UsageError
from kanna.formats.stream import explain, sync_file, sync_folder
from kanna.packaging import bom, checksums, signing, targets, watch
from kanna.packaging.artefact import Artefact, open_artefact
from kanna.packaging.readme import readme
from kanna.packaging.resources import resources
from kanna.packaging.service import Service, image_of

EXTRA = "package"
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageResult:
    """resources: bytes and cores by purpose.

    Attributes:
        files: By path in the package.
        usage: Shell lines by target.
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """signature: `good` by the key that was given, `not checked` without a key, `none` of a package without one."""

    folder: str
    files: int
    signature: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def package(
    artefact: str | Path,
    out: str | Path,
    *,
    to: Sequence[str] = ("docker",),
    name: str | None = None,
    context: int | None = None,
    parallel: int = 4,
    cpus: int = 4,
    image: str | None = None,
    wheel: str | Path | None = None,
    sign_key: str | Path | None = None,
    progress: Progress | None = None,
) -> PackageResult:
    """Write the folder `out`.

    The artefact, the files of each target, alert rules, a bill of materials, SHA256SUMS.

    Raises OutputError when `out` exists; UsageError, SourceError or MissingError before anything is
    written. The folder has its name only when it is complete.

    Args:
        artefact: A GGUF, or a folder that a runtime loads.
        out: The folder of the package.
        to: Targets; docker where none is named.
        name: Of the model in the service; None: of the file.
        parallel: Requests at once.
        cpus: Cores the service may use.
        context: Tokens of one request (default: 4096, or what the model was trained for when that
            is less).
        image: Reference of the image that docker, compose and kubernetes use.
        wheel: A wheel of kanna to take along, for where no package index has it.
        sign_key: A private key (PEM, P-256, P-384 or P-521): the whole package is signed with it.
    """
    folder, given = Path(out), Path(artefact).expanduser()
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder} exists", todo="choose another name, or remove it")
    chosen = _with_needs(to)
    if sign_key is not None:
        signing.check_key(Path(sign_key))
    carried = _wheel(Path(wheel)) if wheel is not None else None
    found = open_artefact(given, name=name, progress=progress)
    wanted = context or min(4096, found.trained_context or 4096)
    service = Service(
        artefact=found,
        resources=resources(found, context=wanted, parallel=parallel, cpus=cpus),
        image=image_of(found, image),
        wheel=carried.name if carried else None,
    )
    texts: dict[str, str] = {}
    for target in chosen:
        texts |= _files(target, service)
    asked = {n: targets.get(n).usage(service) for n in to}
    texts |= watch.files(service) | {bom.FILE: bom.bom(found), "README.md": readme(service, asked)}
    copied = dict(found.files)
    if carried:
        copied[f"wheels/{carried.name}"] = carried
        texts.pop("wheels/.keep", None)
    _write(folder, texts, copied, found, sign_key)
    signature = [signing.FILE] if sign_key else []
    files: list[str] = sorted([*texts, *copied, checksums.FILE, *signature])
    return PackageResult(
        folder=str(folder),
        name=found.slug,
        kind=found.kind,
        sha256=found.digest,
        targets=list(to),
        resources=service.resources.to_dict(),
        files=files,
        usage=asked,
        signed=sign_key is not None,
        notes=_notes(found),
    )


def check(
    folder: str | Path, *, key: str | Path | None = None, progress: Progress | None = None
) -> CheckResult:
    """Hold a package against its checksums, its bill of materials against its schema and files, and its signature.

    Args:
        key: The public key of who signed it. Raises GateError saying what is wrong.
    """
    path = Path(folder)
    if not (path / checksums.FILE).is_file():
        raise GateError(
            f"{path} has no {checksums.FILE}", expected="a folder that kanna package wrote"
        )
    wrong = checksums.differences(path, {checksums.FILE, signing.FILE}, progress)
    if wrong:
        more = f", and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise GateError(
            f"{path} is not as it was packaged: {', '.join(wrong[:8])}{more}",
            todo="package it again",
        )
    text = (path / bom.FILE).read_text(encoding="utf-8") if (path / bom.FILE).is_file() else ""
    bom.validate(text)
    if key is not None:
        signing.verify(path, Path(key))
    signed = (path / signing.FILE).is_file()
    state = "good" if key is not None else "not checked" if signed else "none"
    return CheckResult(folder=str(path), files=len(checksums.read(path)), signature=state)


def _with_needs(to: Sequence[str]) -> list[str]:
    """The targets and those they use, each once."""
    if not to:
        raise UsageError("no target was named", expected=", ".join(targets.names()))
    found: list[str] = []
    for name in to:
        for one in (*targets.get(name).needs, name):
            if one not in found:
                found.append(one)
    return found


def _files(target: str, service: Service) -> dict[str, str]:
    chosen = targets.get(target)
    if service.artefact.kind not in chosen.kinds:
        raise UnsupportedError(
            f"{target} does not run {service.artefact.kind}",
            expected=f"an artefact of kind {', '.join(chosen.kinds)}",
        )
    return chosen.files(service)


def _wheel(path: Path) -> Path:
    if not path.is_file() or path.suffix != ".whl" or not path.name.startswith("kanna-"):
        raise UsageError(f"{path} is not a wheel of kanna", expected="a file kanna-….whl")
    return path


def _notes(artefact: Artefact) -> list[str]:
    found: list[str] = []
    if artefact.licence is None:
        found.append("the artefact names no licence: look at its source before you pass it on")
    if artefact.kind == "gguf" and not artefact.provenance:
        found.append("kanna did not write this file: the bill of materials has no sources")
    if not artefact.model.meta("{arch}.block_count"):
        found.append("the shape of the model is not known: its cache is not counted in the memory")
    return found


def _write(
    folder: Path,
    texts: dict[str, str],
    copied: dict[str, Path],
    artefact: Artefact,
    sign_key: str | Path | None,
) -> None:
    """Write everything under FOLDER.partial, sync, rename.

    An interrupted run leaves at most that folder.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"the folder {parent} does not exist", todo=f"make it: mkdir -p {parent}")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        hashes = dict(artefact.hashes)
        for place, text in texts.items():
            _put(partial / place, text.encode())
        for place, source in copied.items():
            _take(source, partial / place)
        for place in (*texts, *(p for p in copied if p not in hashes)):
            hashes[place] = checksums.sha256(partial / place)
        _put(partial / checksums.FILE, checksums.checksums(hashes).encode())
        if sign_key is not None:
            signing.sign(partial, Path(sign_key))
        if folder.exists():  # somebody was quicker
            raise OutputError(f"{folder} exists", todo="choose another name, or remove it")
        partial.rename(folder)
        sync_folder(parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise explain(error, folder) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _take(source: Path, path: Path) -> None:
    """A copy that shares its blocks where the file system can.

    Never a link, which a change outside would reach.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
    path.chmod(0o644)
    sync_file(path)
