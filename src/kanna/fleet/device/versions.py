"""The versions on a device: folders by digest, and one link that always names a whole one.

DIR/current -> versions/DIGEST     replaced by a rename, after the self-test passed
DIR/versions/DIGEST/…              the files of a manifest, and `model`, a link to the model
DIR/records/DIGEST/manifest.json   what it was, with its signature
DIR/staging, DIR/parts             what is not complete yet
DIR/agent.json                     what is remembered between two runs
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from kanna._util import own_files
from kanna._util.atomic import write_bytes, write_json
from kanna._util.digest import sha256
from kanna._util.typed import TypedObject, text, whole
from kanna.errors import KannaError
from kanna.fleet import manifest
from kanna.fleet.manifest import DIGEST, FleetManifest
from kanna.formats.text_files import read_object

_STATE = "agent.json"
_NUMBER = whole(0, 1 << 53)
_TEXT = text(100_000)


@dataclass(slots=True, kw_only=True)
class AgentMemory:
    """What an agent remembers.

    Attributes:
        highest: Number of the latest instruction it has seen.
        number: Of the last one it came to an end with.
        wanted: Digest that one named.
        outcome: How it ended.
        detail: Why.
        selftest: What the self-test printed.
        reported: Whether the server has that.
        good: Digest that was current before.
    """

    highest: int = 0
    number: int = 0
    wanted: str = ""
    outcome: str = ""
    detail: str = ""
    selftest: str = ""
    reported: bool = True
    good: str = ""


class DeviceFolder:
    """The folder of an agent; one process uses it at a time.

    Args:
        folder: Made when it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.parts, self.staging = self.folder / "parts", self.folder / "staging"
        self._versions, self._records = self.folder / "versions", self.folder / "records"
        self._current = self.folder / "current"
        for path in (self.folder, self.parts, self.staging, self._versions, self._records):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)

    # What is remembered

    def memory(self) -> AgentMemory:
        """What was remembered; nothing where the file was damaged.

        Raises:
            OSError: It cannot be read.
        """
        path = self.folder / _STATE
        if not path.exists():
            return AgentMemory()
        try:
            values: TypedObject = read_object(path)
            return AgentMemory(
                highest=values.get("highest", _NUMBER, 0),
                number=values.get("number", _NUMBER, 0),
                wanted=values.get("wanted", _TEXT, ""),
                outcome=values.get("outcome", _TEXT, ""),
                detail=values.get("detail", _TEXT, ""),
                selftest=values.get("selftest", _TEXT, ""),
                reported=bool(values.get("reported", whole(0, 1), 1)),
                good=values.get("good", _TEXT, ""),
            )
        except KannaError:
            return AgentMemory()

    def remember(self, memory: AgentMemory) -> None:
        """Write it, whole or not at all."""
        write_json(self.folder / _STATE, asdict(memory) | {"reported": int(memory.reported)})

    # Versions

    def current(self) -> str | None:
        """Digest of the version that `current` names; None where there is none."""
        try:
            name = self._current.readlink().name
        except OSError:
            return None
        return name if self.has(name) else None

    def has(self, digest: str) -> bool:
        """Whether a version is here; it gets its name only when it is whole."""
        return bool(DIGEST.fullmatch(digest)) and (self._versions / digest).is_dir()

    def version(self, digest: str) -> Path:
        """The folder of a version."""
        return self._versions / digest

    def record(self, digest: str) -> FleetManifest | None:
        """The manifest of a version that is here."""
        try:
            data = (self._records / digest / manifest.FILE).read_bytes()
            described = manifest.read(data, manifest.FILE)
        except (OSError, KannaError):
            return None
        return described if described.digest == digest else None

    def keep_record(self, described: FleetManifest) -> None:
        """Keep the manifest of what will be a version."""
        folder = self._records / described.digest
        folder.mkdir(exist_ok=True)
        write_bytes(folder / manifest.FILE, described.data)

    def is_whole(self, described: FleetManifest) -> bool:
        """Whether every file of a version is as its manifest says."""
        folder = self.version(described.digest)
        try:
            return all(
                (folder / file.path).stat().st_size == file.size
                and sha256(folder / file.path) == file.sha256
                for file in described.files
            )
        except OSError:
            return False

    def complete(self, described: FleetManifest) -> Path:
        """Give what was staged, all of it checked, its name as a version."""
        staged = self.staging / described.digest
        link = staged / _model_name(described)
        if not link.exists() and not link.is_symlink():
            link.symlink_to(described.artefact)
        _sync_folders(staged)
        target = self.version(described.digest)
        if target.exists():  # it was damaged, or it would not be fetched again
            own_files.put(staged, target)
        else:
            staged.rename(target)
        sync_folder(self._versions)
        return target

    def swap(self, digest: str) -> None:
        """Let `current` name a version, in one step."""
        link = own_files.fresh_name(self._current)
        link.symlink_to(Path("versions") / digest)
        try:
            link.replace(self._current)
        finally:
            with suppress(OSError):
                link.unlink()
        sync_folder(self.folder)

    def model(self) -> Path | None:
        """Where the model is, for a service: the same place after every swap of its kind."""
        digest = self.current()
        described = self.record(digest) if digest else None
        return self._current / _model_name(described) if described else None

    def tidy(self, *keep: str) -> None:
        """Remove versions, records and unfinished files but those of some digests."""
        for link in self.folder.glob("current.kanna-*"):  # of a run that was killed
            link.unlink(missing_ok=True)
        own_files.sweep(self.folder)
        kept = {*keep, self.current() or ""}
        for folder in (self._versions, self._records, self.staging):
            for path in folder.iterdir():
                if path.name not in kept:
                    own_files.remove(path)

    def drop_parts(self) -> None:
        """Remove what was not fetched to its end."""
        shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir(exist_ok=True)

    def free(self) -> int:
        """Bytes that are free on the disk."""
        return shutil.disk_usage(self.folder).free


def _model_name(described: FleetManifest) -> str:
    return f"model{PurePosixPath(described.artefact).suffix}"


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive the end of the machine, where that can be asked for."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_folders(folder: Path) -> None:
    for place, _, _ in os.walk(folder):
        sync_folder(Path(place))
