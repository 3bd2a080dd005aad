"""The vision tower beside a packaged model: held to it, and shipped with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kanna._util import verified
from kanna._util.nearest import absent
from kanna._util.progress import Progress, Silent
from kanna.errors import NotFoundError, UsageError
from kanna.families.towers import stored
from kanna.formats import gguf
from kanna.packaging import targets
from kanna.packaging.artefact import Artefact, plain
from kanna.serving import engines
from kanna.sources import locate

_EXPECTED = "an mmproj: kanna convert SRC -o mmproj.gguf --mmproj"


def require_sight(to: Sequence[str]) -> None:
    """Raise UsageError where a target runs something else than `kanna serve`.

    Args:
        to: Targets that were asked for.
    """
    blind = [name for name in to if not targets.get(name).installs]
    if blind:
        seeing = [name for name in targets.names() if targets.get(name).installs]
        raise UsageError(
            f"a package for {blind[0]} takes no vision tower: kanna does not serve it there",
            expected="--mmproj with " + ", ".join(seeing),
        )


def with_tower(
    artefact: Artefact,
    mmproj: str | Path,
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> Artefact:
    """The artefact with its vision tower among its files.

    Args:
        artefact: A model of text.
        mmproj: The tower, or a reference to one.
        offline: Use only what is on this machine already.
        progress: Where hashing reports how far it is.

    Raises:
        NotFoundError: The tower does not exist.
        UsageError: The artefact is no file that a tower lies beside.
        FormatError: The file is no tower, or one of another model.
    """
    engine = engines.get(artefact.kind)
    if engine.check_tower is None:
        raise UsageError(
            f"{artefact.name} is of the kind {artefact.kind}, which takes no vision tower",
            expected="a .gguf file, and its mmproj",
        )
    location = locate(mmproj, offline=offline, progress=progress)
    if not location.is_file():
        raise NotFoundError(absent(location), expected=_EXPECTED)
    engine.check_tower(artefact.files[artefact.place], location)
    tower = stored(gguf.read(location).metadata)
    place = f"models/{plain(location.name)}"
    if place in artefact.files:
        place = f"models/mmproj-{plain(location.name)}"
    size = location.stat().st_size
    progress = progress or Silent()
    progress.start("hash the vision tower", size)
    digest = verified.digest(location, lambda n: progress.advance(n, place))
    progress.finish()
    return replace(
        artefact,
        files=artefact.files | {place: location},
        hashes=artefact.hashes | {place: digest},
        num_bytes=artefact.num_bytes + size,
        mmproj=place,
        picture_bytes=tower.state_bytes if tower is not None else 0,
    )
