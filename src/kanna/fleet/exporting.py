"""A rollout as files for an orchestrator that a company has already."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna._util import own_files
from kanna._util.arguments import several
from kanna._util.results import Result
from kanna.errors import FormatError, OutputError, UnsupportedError, UsageError
from kanna.fleet import manifest, orchestrators
from kanna.fleet.connection import FleetConnection, FleetServer
from kanna.fleet.operations import find_published
from kanna.fleet.orchestrators.base import ForeignRollout
from kanna.fleet.rings import DEFAULT_RINGS, check_rings, parse_ring

_HERE = FleetServer()
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ADDRESS = re.compile(r"[A-Za-z0-9+.-]+://[A-Za-z0-9._~:/@%+-]+|")
_GROUP = re.compile(r"[A-Za-z0-9._:/=-]*")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WrittenManifests(Result):
    """Files for an orchestrator.

    Attributes:
        folder: Where they are.
        orchestrator: Its name.
        files: Their paths in the folder.
        usage: Shell lines that begin the rollout, in the folder.
        remarks: What it does not do as `kanna fleet` does.
    """

    folder: str
    orchestrator: str
    files: list[str]
    usage: list[str]
    remarks: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)

    def headline(self) -> str:
        """Where they are."""
        return f"{len(self.files)} files for {self.orchestrator} in {self.folder}"


def manifests(
    artefact: str = "",
    *,
    orchestrator: str,
    out: str | Path,
    server: FleetServer = _HERE,
    image: str = "",
    source: str = "",
    group: str = "",
    ring: str | Sequence[str] = DEFAULT_RINGS,
) -> WrittenManifests:
    """Write the rollout of what was published as files for another orchestrator.

    Args:
        artefact: Digest of what was published, or the beginning of it; empty: the latest.
        orchestrator: Its name, such as `flightctl`.
        out: A new folder.
        server: Where the fleet is.
        image: OCI reference of the model, as `kanna push` made it.
        source: Where files are fetched from: a git repository, or `s3://BUCKET/FOLDER`.
        group: Which devices: a label KEY=VALUE, a group of Mender, the ARN of a thing group.
        ring: As of `rollout`.

    Raises:
        UsageError: Something is missing that the orchestrator needs, or nothing was published.
        UnsupportedError: There is no such orchestrator, or llama.cpp does not run the model.
        OutputError: The folder is there.
        KannaError: The server refuses, or is not there.
    """
    from kanna import oci  # which an agent never needs

    chosen = orchestrators.get(orchestrator)
    rings = tuple(parse_ring(text) for text in several(ring) or DEFAULT_RINGS)
    check_rings(rings)
    for name, value in (("image", image), ("source", source), ("group", group)):
        if name in chosen.needs and not value:
            raise UsageError(f"{chosen.title} needs --{name}", todo="docs/fleet.md says what it is")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is there", expected="a new folder, or an empty one")
    reference = str(oci.parse(image)).removeprefix(oci.SCHEME) if image else ""
    connection = FleetConnection(server)
    answer = connection.ask("GET", f"/v1/manifests/{find_published(connection, artefact)}")
    rollout = _rollout(
        answer, rings=rings, image=reference, source=_plain(source, _ADDRESS, "--source"),
        group=_plain(group, _GROUP, "--group"),
    )  # fmt: skip
    texts = chosen.files(rollout)
    _write(texts, folder)
    pinned = [] if not image or "@" in image else ["--image names a tag, which may change: pin it"]
    return WrittenManifests(
        folder=str(folder),
        orchestrator=chosen.title,
        files=sorted(texts),
        usage=chosen.usage(rollout),
        remarks=[*pinned, *chosen.remarks],
    )


def _plain(text: str, pattern: re.Pattern[str], option: str) -> str:
    """A text that means nothing to a shell; raises UsageError."""
    if not pattern.fullmatch(text):
        raise UsageError(f"{option} {text!r}", expected=f"what {pattern.pattern} describes")
    return text


def _rollout(answer: dict[str, Any], **more: Any) -> ForeignRollout:
    """What the server published, where llama.cpp's server runs it."""
    from kanna.packaging.artefact import slug
    from kanna.self_testing import runner

    described = manifest.read(answer["manifest"].encode(), manifest.FILE)
    model = described.artefact.rpartition("/")[2]
    hashes = {file.path: file.sha256 for file in described.files}
    if described.artefact not in hashes or not model.endswith(".gguf"):
        raise UnsupportedError(
            f"{described.artefact} is no GGUF, and the manifests run llama.cpp's server",
            expected="a model in one GGUF file",
            todo="kanna fleet rollout runs any",
        )
    _plain(model, _PLAIN, "the name of the model")
    try:
        expected = json.loads(answer["selftest"])
        files = {place.rpartition("/")[2]: digest for place, digest in expected["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError("the self-test that was published is none") from None
    expected |= {"artefact": model, "files": files}
    return ForeignRollout(
        slug=slug(described.name),
        title=described.name,
        digest=described.digest,
        sequence=described.sequence,
        model=model,
        hashes={model: hashes[described.artefact]},
        expected=json.dumps(expected, indent=1) + "\n",
        runner=Path(runner.__file__).read_text(encoding="utf-8"),
        **more,
    )


def _write(texts: dict[str, str], folder: Path) -> None:
    """All files, or none under the final name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with own_files.complete(folder) as partial:
        for place, text in texts.items():
            path = partial / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
