"""What is published: the files of a model with its self-test, a manifest and its signature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna import signing
from kanna._util import own_files
from kanna._util.digest import sha256
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna.errors import FormatError, NotFoundError, UsageError
from kanna.fleet import manifest
from kanna.fleet.manifest import FleetManifest
from kanna.self_testing import expectations, runner


def collect(location: Path) -> tuple[str, dict[str, Path]]:
    """The path of the model, and every file of what is published by its path.

    Args:
        location: A package with a self-test, or a model with one beside it.

    Raises:
        UsageError: There is no such thing, or no self-test.
    """
    if not location.exists():
        raise NotFoundError(absent(location), expected="a model or a package")
    packaged = location / runner.NAME
    if location.is_dir() and packaged.is_file():
        files = {
            path.relative_to(location).as_posix(): path
            for path in sorted(location.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        test = packaged
    else:
        test = expectations.beside(location)
        files = {**expectations.files_of(location, ""), runner.NAME: test}
    if not test.is_file():
        raise UsageError(
            f"{location} has no self-test: nothing would tell a bad model from a good one",
            expected=f"{runner.NAME} of a package, or {test.name} beside it",
            todo=f"where it was proved: kanna selftest {location} --write",
        )
    try:
        artefact = str(runner.read(test)["artefact"])
    except runner.SelftestError as error:
        raise FormatError(str(error), todo=f"kanna selftest {location} --write") from error
    return artefact, files


def written(
    name: str, sequence: int, artefact: str, files: Mapping[str, Path], progress: Progress
) -> FleetManifest:
    """The manifest of files, as it is signed and sent.

    Args:
        name: For people.
        sequence: Larger than that of everything published before.
        artefact: Path of the model among the files.
        files: Every file by its path in the folder of its version.
        progress: Told of what is hashed.
    """
    progress.start("hash the model", sum(path.stat().st_size for path in files.values()))
    listed: list[dict[str, Any]] = []
    for place, path in sorted(files.items()):
        digest = sha256(path, lambda count, place=place: progress.advance(count, place))
        listed.append({"path": place, "sha256": digest, "size": path.stat().st_size})
    progress.finish()
    values = {
        "format": manifest.FORMAT,
        "name": name,
        "sequence": sequence,
        "artefact": artefact,
        "files": listed,
    }
    return manifest.read((json.dumps(values, indent=1) + "\n").encode(), manifest.FILE)


def signature_of(described: FleetManifest, key: Path) -> str:
    """The signature of a manifest, in the format of model-signing.

    Raises:
        UsageError: The key cannot sign.
        MissingError: model-signing is not installed.
    """
    with own_files.scratch(label="fleet") as folder:
        (folder / manifest.FILE).write_bytes(described.data)
        signing.sign(folder, key)
        return (folder / signing.FILE).read_text(encoding="utf-8")
