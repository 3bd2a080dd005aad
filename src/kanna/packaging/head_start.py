"""Files that are on their way to a registry while the model they are of is still read.

What reads and checks a model takes as long to load as a gigabyte takes to be sent on one machine.
Files whose gate holds go first; of a model that is then refused they are in no manifest, and the
registry drops them with what else nothing names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kanna._util import verified
from kanna._util.progress import Progress
from kanna.errors import KannaError
from kanna.formats import folder_files
from kanna.packaging.gates import gate_of
from kanna.packaging.pushed import PushedModels
from kanna.registry import layouts
from kanna.registry.manifests import Descriptor, check_place
from kanna.registry.uploads import BlobUploads

WORTH = 1 << 20
"""Bytes of a file that is worth a head start."""
_MAGIC = b"GGUF"
_PART = re.compile(r"-\d{5}-of-\d{5}\.")
_CONFIGS = ("config.json", "genai_config.json")


def begin(uploads: BlobUploads, wanted: PushedModels, progress: Progress) -> None:
    """Begin with the large files of models that lie here and whose gates hold.

    Args:
        uploads: What sends them.
        wanted: The models; those that are no paths wait until they are read.
        progress: Where hashing is reported.
    """
    for at, one in enumerate(wanted.given):
        path = Path(one)
        if layouts.get(wanted.layout).formats and path.is_dir():
            continue  # perhaps of a format that the layout does not carry
        with suppress(KannaError, OSError):  # who reads the model says what is wrong with it
            files = _files(path)
            hashes = _hashed(files, progress)
            report = wanted.reports[at] if wanted.reports else None
            gate_of(path, hashes, report, wanted.unproved)
            for place, file in files.items():
                size, digest = file.stat().st_size, f"sha256:{hashes[place]}"
                if size >= WORTH:
                    uploads.begin(file, Descriptor(media_type="", digest=digest, size=size))


def _hashed(files: Mapping[str, Path], progress: Progress) -> dict[str, str]:
    """SHA-256 of files, kept for whoever asks next."""
    progress.start("hash the model", sum(file.stat().st_size for file in files.values()))
    try:
        return {
            place: verified.digest(file, lambda n, p=place: progress.advance(n, p))
            for place, file in files.items()
        }
    finally:
        progress.finish()


def _files(path: Path) -> dict[str, Path]:
    """Files of what looks like a model, by their paths in it."""
    if path.is_dir():
        if not any((path / name).is_file() for name in _CONFIGS):
            return {}
        files = {str(p): file.resolve() for p, file in sorted(folder_files.walked(path))}
        for place in files:
            check_place(place, {}, path.name)
        return files
    if not path.is_file() or _PART.search(path.name):
        return {}
    with path.open("rb") as file:
        return {path.name: path} if file.read(len(_MAGIC)) == _MAGIC else {}
