"""What people write for a model, read without opening anything.

A path, a hub id with `@REVISION` and `:FILE`, an address of the hub, `builtin:`, `ollama:` or
`oci://`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote

from kanna._util.addresses import parts_of
from kanna.errors import SourceError, UsageError

BUILTIN, OLLAMA, OCI = "builtin:", "ollama:", "oci://"
FORMS = (
    "a path, a hub id (org/name, org/name@revision, org/name:file), an address of a model on "
    "huggingface.co, builtin:NAME, ollama:NAME, or oci://HOST/NAME:TAG"
)
"""Every way to name a model, for messages."""
_HUB = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[^:@]+))?(?::(?P<file>[^:]+))?"
)
_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_HUB_SCHEME = "hf://"
# Files that are named like this are on the disk or not at all: nobody calls a repository so.
_FILES = (".gguf", ".safetensors", ".onnx", ".bin", ".pt", ".pth", ".ckpt", ".json")
_VIEWS = {"tree", "blob", "resolve", "raw"}
_NOT_MODELS = {"datasets", "spaces", "collections", "papers", "docs", "blog", "api"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a reference names.

    Attributes:
        given: As the user wrote it.
        name: The path, the id on the hub, or the name after `builtin:`, `ollama:` or `oci://`.
        kind: `path`, `hub`, `builtin`, `ollama` or `oci`.
        revision: Branch, tag or commit on the hub; None where none was named.
        file: A file or folder of the repository; None where none was named.
    """

    given: str
    name: str
    kind: str
    revision: str | None = None
    file: str | None = None

    @property
    def label(self) -> str:
        """A short name for tables and for a served model."""
        if self.kind == "path":
            return Path(self.name).name
        if self.file:
            return Path(self.file).name
        return self.name.split("/")[-1].replace(":", "-")


def parse(given: str | Path, revision: str | None = None) -> Reference:
    """Read a reference; the disk is only asked whether a path is there.

    Args:
        given: What the user wrote.
        revision: Of the option `--revision`; must not contradict one in the reference.

    Raises:
        SourceError: An address that is none of a model.
        UsageError: Two different revisions.
    """
    text = str(given)
    if not text.strip():  # a path of no name would be the folder one stands in
        raise SourceError("the name of the model is empty", expected=FORMS)
    for prefix in (BUILTIN, OLLAMA, OCI):
        if text.startswith(prefix):
            return Reference(given=text, name=text.removeprefix(prefix), kind=prefix.rstrip(":/"))
    if (address := _address(text)) is not None:
        return _with_revision(address, revision)
    path = Path(text).expanduser()
    hub = None if path.exists() or isinstance(given, Path) else _HUB.fullmatch(text)
    if hub is None or (hub["file"] is None and text.lower().endswith(_FILES)):
        return Reference(given=text, name=str(_snapshot(path)), kind="path")
    parts = Reference(
        given=text, name=hub["id"], kind="hub", revision=hub["revision"], file=hub["file"]
    )
    return _with_revision(parts, revision)


def _with_revision(reference: Reference, revision: str | None) -> Reference:
    if revision is None or reference.kind != "hub" or reference.revision == revision:
        return reference
    if reference.revision is not None:
        raise UsageError(
            f"{reference.given} names the revision {reference.revision}, --revision {revision}",
            expected="one of the two",
        )
    return Reference(
        given=reference.given,
        name=reference.name,
        kind="hub",
        revision=revision,
        file=reference.file,
    )


def _address(text: str) -> Reference | None:
    """The reference that an address is; None for what is no address."""
    if text.startswith(_HUB_SCHEME):
        return _hub_scheme(text)
    if text.startswith("hf:") and (hub := _HUB.fullmatch(text[3:])) is not None:
        return Reference(
            given=text, name=hub["id"], kind="hub", revision=hub["revision"], file=hub["file"]
        )
    if re.match(r"(hf\.co|huggingface\.co)/", text) and not Path(text).exists():
        text = f"https://{text}"
    if not re.match(r"https?://", text, re.IGNORECASE):
        return None
    parts = parts_of(text)
    if parts is None:
        raise SourceError(
            f"{text} is no address",
            expected="such as https://huggingface.co/org/name",
            todo="copy the address of the model's page again",
        )
    host = (parts.hostname or "").lower()
    words = [unquote(word) for word in parts.path.split("/") if word]
    if host in {"ollama.com", "www.ollama.com"} and words:
        name = "/".join(words[1:] if words[0] == "library" else words)
        return Reference(given=text, name=name, kind="ollama")
    endpoint = parts_of(os.environ.get("HF_ENDPOINT", ""))
    own = endpoint is not None and parts.netloc.lower() == endpoint.netloc.lower()
    if host not in _HUB_HOSTS and not own:
        raise SourceError(
            f"{text} is no address of the Hugging Face hub",
            expected="such as https://huggingface.co/org/name or …/blob/main/model.gguf",
            todo="download the file, and give its path",
        )
    if not words or words[0] in _NOT_MODELS:
        raise SourceError(
            f"{text} is no address of a model",
            expected="such as https://huggingface.co/org/name",
            todo="open the page of the model, and copy its address",
        )
    return _hub_page(text, words, parse_qs(parts.query).get("show_file_info", [None])[0])


def _hub_page(text: str, words: list[str], file: str | None) -> Reference:
    """The reference of a page of the hub, from the words of its path."""
    at = 1 if len(words) > 1 and words[1] in _VIEWS else min(2, len(words))
    name, rest = "/".join(words[:at]), words[at:]
    revision = None
    if len(rest) > 1 and rest[0] in _VIEWS:
        # Pull requests and conversions are revisions of three words.
        size = 3 if rest[1:3] in (["refs", "pr"], ["refs", "convert"]) else 1
        revision, file = "/".join(rest[1 : 1 + size]), "/".join(rest[1 + size :]) or file
    return Reference(given=text, name=name, kind="hub", revision=revision, file=file)


def _hub_scheme(text: str) -> Reference:
    """hf://org/name@revision/path/in/it, as fsspec writes it."""
    parts = re.fullmatch(
        r"(?:models/)?([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?", text.removeprefix(_HUB_SCHEME)
    )
    if parts is None:
        raise SourceError(f"{text} names no model", expected="hf://org/name@revision/file")
    return Reference(given=text, name=parts[1], kind="hub", revision=parts[2], file=parts[3])


def _snapshot(path: Path) -> Path:
    """The newest snapshot in a repository's folder of the hub's cache; other paths as they are."""
    snapshots = path / "snapshots"
    if not path.name.startswith("models--") or not snapshots.is_dir():
        return path
    main = path / "refs" / "main"
    if main.is_file() and (named := snapshots / main.read_text(encoding="utf-8").strip()).is_dir():
        return named
    folders = sorted(
        (p for p in snapshots.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime
    )
    return folders[-1] if folders else path
