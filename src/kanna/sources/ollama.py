"""Models that Ollama has pulled to this machine, found by their names.

Its store has a manifest per model (JSON) and blobs named by their SHA-256; nothing is changed there
and no server is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kanna._util.typed import text
from kanna.errors import FormatError, SourceError, UnsupportedError
from kanna.formats.text_files import read_object
from kanna.sources.packages import cache_dir

REGISTRY, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
_LAYER = "application/vnd.ollama.image."
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_SYSTEM_STORES = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/models", "/var/lib/ollama")


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaModel:
    """A model in the store.

    Attributes:
        name: As `ollama list` shows it, such as `qwen2.5:0.5b`.
        blob: The GGUF.
        num_bytes: Of the blob.
        manifest: The file that names it.
        layers: Kinds of all its layers, such as `model`, `template`, `adapter`.
    """

    name: str
    blob: Path
    num_bytes: int
    manifest: Path
    layers: tuple[str, ...]


def stores() -> list[Path]:
    """Folders that hold models of Ollama on this machine, the user's own first."""
    if named := os.environ.get("OLLAMA_MODELS"):
        return [Path(named).expanduser()]
    places = [Path.home() / ".ollama" / "models", *map(Path, _SYSTEM_STORES)]
    return [place for place in places if (place / "manifests").is_dir()]


def models() -> Iterator[OllamaModel]:
    """Every model whose manifest and blob can be read."""
    for store in stores():
        root = store / "manifests"
        for manifest in sorted(root.glob("*/*/*/*")) if root.is_dir() else []:
            if manifest.is_file() and not manifest.name.startswith("."):
                with suppress(SourceError, OSError):
                    yield _read(store, manifest)


def find(name: str) -> OllamaModel:
    """The model of that name, with or without its tag.

    Raises:
        SourceError: It is not in the store, or has more parts than one GGUF.
    """
    place = _place(name)
    for store in stores():
        manifest = store / "manifests" / place
        if manifest.is_file():
            model = _read(store, manifest)
            if "adapter" in model.layers:
                raise UnsupportedError(
                    f"ollama:{name} is a base model and an adapter",
                    expected="one GGUF",
                    todo="give the model it was made from",
                )
            return model
    known = [f"ollama:{model.name}" for model in models()]
    shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    where = ", ".join(map(str, stores())) or "no store of Ollama: set OLLAMA_MODELS to its folder"
    raise SourceError(
        f"Ollama has no model {name!r} on this machine ({where})",
        expected=shown,
        todo=f"ollama pull {name}",
    )


def path(name: str) -> Path:
    """The GGUF of a model, under its own name: a link in kanna's cache to Ollama's blob."""
    model = find(name)
    link = cache_dir() / "ollama" / f"{model.name.replace('/', '-').replace(':', '-')}.gguf"
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if not (link.is_symlink() and link.readlink() == model.blob):
            made = link.with_name(f"{link.name}.{os.getpid()}")
            made.symlink_to(model.blob)
            made.replace(link)
    except OSError:  # Windows lets few accounts make links
        return model.blob
    return link


def _place(name: str) -> Path:
    """Where the manifest of a model lies: HOST/NAMESPACE/NAME/TAG."""
    host_and_name, _, tag = name.rpartition(":")
    if not host_and_name or "/" in tag:
        host_and_name, tag = name, TAG
    words = host_and_name.split("/")
    if not 1 <= len(words) <= 3 or any(word in ("", ".", "..") for word in [*words, tag]):
        raise SourceError(
            f"{name!r} is no name of a model in Ollama", expected="ollama:NAME or ollama:NAME:TAG"
        )
    # A host keeps its port after a colon; the folder has the same name.
    return Path(*[REGISTRY, NAMESPACE][: 3 - len(words)], *words, tag)


def _read(store: Path, manifest: Path) -> OllamaModel:
    host, namespace, model, tag = manifest.parts[-4:]
    name = f"{model}:{tag}"
    if namespace != NAMESPACE or host != REGISTRY:
        name = f"{namespace}/{name}"
    if host != REGISTRY:
        name = f"{host}/{name}"
    try:
        layers: dict[str, str] = {}
        for layer in read_object(manifest).parts("layers"):
            kind = layer.need("mediaType", text(255)).removeprefix(_LAYER)
            layers.setdefault(kind, layer.need("digest", text(255)))
        digest = layers.get("model", "")
    except FormatError as error:
        raise FormatError(
            f"{manifest} is no manifest of Ollama: {error.found}", todo=f"ollama pull {name}"
        ) from None
    if not digest:
        raise UnsupportedError(
            f"ollama:{name} has no GGUF, but {', '.join(layers)}", expected="one layer `model`"
        )
    blob = store / "blobs" / digest.replace(":", "-")
    if "/" in digest or not blob.is_file():
        raise FormatError(
            f"{blob}, which {manifest} names, is not there", todo=f"ollama pull {name}"
        )
    if not _DIGEST.fullmatch(digest):  # by another name there is nothing to hold the blob to
        raise FormatError(
            f"{manifest} names the blob {digest[:80]!r}",
            expected="sha256: and 64 hexadecimal digits",
            todo=f"ollama pull {name}",
        )
    return OllamaModel(
        name=name,
        blob=blob,
        num_bytes=blob.stat().st_size,
        manifest=manifest,
        layers=tuple(layers),
    )
