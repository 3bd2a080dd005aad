"""Libraries that a package takes along, from the npm registry, by the hash of each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna._util.progress import Progress
from kanna.sources import packages


@dataclass(frozen=True, slots=True, kw_only=True)
class NpmLibrary:
    """One npm package, at one version.

    Attributes:
        package: Its name in the registry.
        version: Its version.
        licence: SPDX identifier.
        files: Where each file lies in the package that is written, by its path in the library.
    """

    package: str
    version: str
    licence: str
    files: Mapping[str, str]

    @property
    def purl(self) -> str:
        """Package URL, as a bill of materials has it."""
        return f"pkg:npm/{self.package.replace('@', '%40')}@{self.version}"

    def fetched(self, progress: Progress | None) -> dict[str, Path]:
        """Returns its files by their place in the package, from the cache or the registry.

        Raises:
            MissingError: The registry does not answer.
            FormatError: What came is something else.
        """
        folder = packages.npm_files(self.package, self.version, tuple(self.files), progress)
        return {place: folder / name for name, place in self.files.items()}


def none(_: object) -> Sequence[NpmLibrary]:
    """What a target without libraries answers."""
    return ()
