"""The artefact that is packaged: its files, their hashes and its metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna import families, formats
from kanna._util import verified
from kanna._util.nearest import absent
from kanna._util.progress import Progress, Silent
from kanna._util.typed import LAYERS, TypedObject, read, text, whole
from kanna.errors import KannaError, NotFoundError, RefusedError, SourceError, UnsupportedError
from kanna.formats import folder_files, gguf
from kanna.formats.base import Format
from kanna.formats.text_files import parse_json, read_object
from kanna.model import MetaValue, Model, string, u32
from kanna.provenance import SOURCE_HASHES, of_folder
from kanna.serving import engines
from kanna.sources import locate, open_source, references
from kanna.tokenizer import templates

# Files that run code when they are read.
_PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".ckpt"}
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXPECTED = "a .gguf file, or an ONNX, MLX or OpenVINO folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One artefact to package.

    Attributes:
        kind: Name of its format, and of the engine that serves it.
        name: As the artefact calls itself.
        slug: The name as a DNS label: lower case letters, digits and hyphens, at most 40.
        place: Path of the artefact inside the package, such as `models/tiny-Q4_K_M.gguf`.
        files: Every file by its path inside the package.
        hashes: SHA-256 of every file, by the same path.
        num_bytes: Size of all files.
        parameters: Number of weights, or None where it is not known.
        model: What the arithmetic of `fit` needs; without tensors for a folder.
        encodings: Of its tensors, for the same; none where a folder's are not read.
        licence: As the artefact names it, or None.
        chat_template: Jinja source, or None.
        provenance: What kanna wrote about how the artefact was made.
        mmproj: Path of a vision tower inside the package; None: it reads text alone.
        picture_bytes: Of the states of a picture in that tower.
        texts: Text of files that lie among its own, by their path inside the package.
    """

    kind: str
    name: str
    slug: str
    place: str
    files: dict[str, Path]
    hashes: dict[str, str]
    num_bytes: int
    parameters: int | None
    model: Model
    encodings: frozenset[str]
    licence: str | None
    chat_template: str | None
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    mmproj: str | None = None
    picture_bytes: int = 0
    texts: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def digest(self) -> str:
        """SHA-256 of the only file, or of the files' hashes in the order of their paths."""
        hashes = [self.hashes[p] for p in sorted(self.hashes)]
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        )

    @property
    def trained_context(self) -> int | None:
        """Tokens of context that the model was trained for, or None where it does not say."""
        return self.model.whole("{arch}.context_length", 0) or None


def open_artefact(
    path: str | Path,
    *,
    name: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Artefact:
    """Read what an artefact is and hash its files.

    Args:
        path: A GGUF, or an ONNX, MLX or OpenVINO folder.
        name: Name of the model in the service; None takes that of the file.
        offline: Use only what is on this machine already.
        progress: Where hashing reports how far it is.

    Raises:
        SourceError: It does not exist.
        UnsupportedError: It is no artefact that `kanna serve` runs.
    """
    location = locate(path, offline=offline, progress=progress)
    if not location.exists():
        raise NotFoundError(absent(location), expected=_EXPECTED)
    description = _folder(location) if location.is_dir() else _gguf(location)
    files = description.pop("files")
    label = name or (
        references.parse(path).label
        if location.is_dir()
        else re.sub(r"-00001-of-\d{5}$", "", location.stem)
    )
    hashes: dict[str, str] = {}
    progress = progress or Silent()
    progress.start("hash the model", sum(p.stat().st_size for p in files.values()))
    for place, file in files.items():
        hashes[place] = verified.digest(file, lambda n, p=place: progress.advance(n, p))
    progress.finish()
    num_bytes = sum(p.stat().st_size for p in files.values())
    return Artefact(
        slug=slug(label), files=files, hashes=hashes, num_bytes=num_bytes, **description
    )


def slug(name: str) -> str:
    """Returns a DNS label made from any name.

    Raises:
        SourceError: The name has no letter and no digit.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    if not label:
        raise SourceError(f"no name can be made of {name!r}", todo="give one with --name")
    return label if label[0].isalpha() else f"m-{label}"[:40].strip("-")


def _gguf(path: Path) -> dict[str, Any]:
    opened = open_source(path, offline=True)
    if opened.gguf is None:
        raise UnsupportedError(f"{path} is not a GGUF file", expected=_EXPECTED)
    try:
        model = families.load_model(opened)
    except KannaError:
        # A family kanna does not convert can still be served.
        arch = opened.gguf.metadata.get("general.architecture", string("unknown"))
        model = Model(
            name=opened.name,
            family=str(arch.value),
            tensors=dict(opened.tensors),
            metadata=opened.gguf.metadata,
        )
    families.check_stored(model)
    raw = opened.gguf.metadata
    licence = raw.get("general.license.name") or raw.get("general.license")
    template = raw.get("tokenizer.chat_template")
    files = {f"models/{plain(p.name)}": p for p in opened.weight_files}
    return {
        "kind": gguf.FORMAT.name,
        "name": opened.name,
        "place": next(iter(files)),
        "files": files,
        "parameters": model.num_parameters,
        "model": model,
        "encodings": frozenset(t.dtype for t in model.tensors.values()),
        "licence": str(licence.value) if licence else None,
        "chat_template": str(template.value) if template else None,
        "provenance": provenance_of(raw),
    }


def provenance_of(metadata: Mapping[str, MetaValue]) -> dict[str, Any]:
    """Returns what kanna wrote about how a file was made, by key without the prefix `kanna.`.

    Values that hold JSON are parsed.
    """
    provenance: dict[str, Any] = {}
    for key, meta in metadata.items():
        if not key.startswith("kanna."):
            continue
        value: Any = meta.value
        if key in (SOURCE_HASHES, "kanna.plan.encodings"):
            written = read(value, text(), key, "the file", "convert the model again")
            value = dict(TypedObject.of(parse_json(written, key), key).values)
        elif not isinstance(value, (str, int, float)):
            value = [str(v) for v in value]
        provenance[key.removeprefix("kanna.")] = value
    return provenance


def _folder(path: Path) -> dict[str, Any]:
    format = formats.recognize(path)
    if format is not None and format.check_names is not None:
        format.check_names(path, graphs=True)
    if format is not None and format.runs:
        kind = format.name
    else:
        try:
            kind = engines.for_artefact(path).name
        except UnsupportedError:
            raise
        except SourceError as error:
            raise UnsupportedError(
                f"{path} is no model that can be packaged", expected=error.expected
            ) from error
    names = {p.name for p in path.iterdir() if p.is_file()}
    label = plain(path.resolve().name)
    files = _files(path, f"models/{label}")
    model = _described(path, label)
    licence = _json(path / "config.json").get("license")
    licence_file = next(
        (n for n in sorted(names) if n.upper().startswith(("LICENSE", "LICENCE"))), None
    )
    return {
        "kind": kind,
        "name": label,
        "place": f"models/{label}",
        "files": files,
        "parameters": None,
        "model": model,
        "encodings": _encodings(path, format),
        "licence": str(licence) if licence else f"see {licence_file}" if licence_file else None,
        "chat_template": _template(path),
        "provenance": provenance_of({k: string(v) for k, v in of_folder(path).items()}),
    }


def _encodings(path: Path, format: Format | None) -> frozenset[str]:
    """Encodings of a folder's tensors, where its format reads them."""
    if format is None or format.contents is None:
        return frozenset()
    return frozenset(tensor.dtype for tensor in format.contents(path).tensors.values())


def _files(folder: Path, place: str) -> dict[str, Path]:
    """Every file of a folder.

    Links are followed inside the folder, but not to folders, and nothing hidden or pickled is
    taken.
    """
    files: dict[str, Path] = {}
    for relative, path in sorted(folder_files.walked(folder)):
        if path.suffix.lower() in _PICKLED:
            raise RefusedError(
                f"{path.name} can run code when it is read", todo="remove it from the folder"
            )
        if not path.is_file():
            raise SourceError(
                f"{path} is not a file",
                todo="remove it: broken links and devices are not packaged",
            )
        if any(c in str(relative) for c in "\n\r\\"):
            raise SourceError(
                f"the name {str(relative)!r} cannot be written in a list of checksums",
                todo="rename it",
            )
        files[f"{place}/{relative}"] = path.resolve()
    return files


def _described(path: Path, name: str) -> Model:
    """The shape of a folder's model in GGUF's words, from the configuration of either runtime."""
    config = read_object(path / "config.json")
    genai = read_object(path / "genai_config.json").part("model")
    decoder = genai.part("decoder")
    if "text_config" in config:
        config = config.part("text_config")
    kind = text(64)
    family = genai.get("type", kind, "") or config.get("model_type", kind, "") or "unknown"
    metadata: dict[str, MetaValue] = {}
    for key, config_key, genai_key in (
        ("block_count", "num_hidden_layers", "num_hidden_layers"),
        ("embedding_length", "hidden_size", "hidden_size"),
        ("attention.head_count", "num_attention_heads", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads", "num_key_value_heads"),
        ("attention.key_length", "head_dim", "head_size"),
        ("attention.value_length", "head_dim", "head_size"),
        ("feed_forward_length", "intermediate_size", "intermediate_size"),
        # genai's of that name is how graphs of fixed shapes read a prompt.
        ("attention.sliding_window", "sliding_window", ""),
    ):
        size = LAYERS if key == "block_count" else whole()
        if value := config.get(config_key, size, decoder.get(genai_key, size, 0)):
            metadata[f"{family}.{key}"] = u32(value)
    for key, value in (
        (
            "context_length",
            config.get("max_position_embeddings", whole(), genai.get("context_length", whole(), 0)),
        ),
        ("vocab_size", config.get("vocab_size", whole(), genai.get("vocab_size", whole(), 0))),
    ):
        if value:
            metadata[f"{family}.{key}"] = u32(value)
    return Model(name=name, family=family, tensors={}, metadata=metadata)


def _json(path: Path) -> dict[str, Any]:
    """An object from a file; {} when there is none."""
    return dict(read_object(path).values)


def _template(path: Path) -> str | None:
    files = folder_files.files(path)
    return templates.choose(templates.read(files, _json(path / "tokenizer_config.json")))


def plain(name: str) -> str:
    """A file name that needs no quoting anywhere.

    Args:
        name: The name as it is.
    """
    if _PLAIN.fullmatch(name):
        return name
    stem, dot, suffix = name.rpartition(".")
    return (
        f"{slug(stem if dot else name)}.{suffix}"
        if dot and _PLAIN.fullmatch(suffix)
        else slug(name)
    )
