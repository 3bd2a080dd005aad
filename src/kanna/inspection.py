"""What a source or artefact is, from its headers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna import families, formats, provenance
from kanna._util.bars import shown
from kanna._util.disk import folder_size
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna._util.typed import whole
from kanna._util.units import format_size, precision_class
from kanna.calibration.expert_coverage import coverage
from kanna.calibration.statistics import is_statistics
from kanna.calibration.statistics import read as read_statistics
from kanna.errors import KannaError, SourceError
from kanna.families import towers
from kanna.formats import folder_files, gguf, vectors
from kanna.formats.onnx import encoder
from kanna.model import Model, Tensor, bits_per_weight, num_weights
from kanna.sources import Source, open_source

# Hashing reads every byte: at about 1 GB/s this much goes unnoticed.
_HASH_AT_ONCE = 600_000_000

_SHAPE = {
    "layers": "block_count",
    "hidden": "embedding_length",
    "feed-forward": "feed_forward_length",
    "heads": "attention.head_count",
    "key-value heads": "attention.head_count_kv",
    "sliding window": "attention.sliding_window",
    "experts": "expert_count",
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Inspection(Result):
    """What was found; sizes in bytes, shapes in numpy order.

    Attributes:
        also: Models of other names that are of this family.
        known_family: Whether kanna converts this family; an unknown GGUF can still be requantized.
        types: Per encoding: number of tensors, weights, bytes.
        chat_template: Present, and its first characters.
        hash: SHA-256 of the weights (of several files: of their hashes); None when too large to
            read unasked.
        provenance: What converters wrote about themselves.
        made: Of what kanna wrote: its version, source, plan, number of tensors by encoding, and
            what the gate report beside it says. None for other sources.
        problems: Why it cannot be converted.
        statistics: Of a folder of calibration statistics, what is in it: `text`, `tokens`,
            `sites` and, where there are experts, `coverage`. None for a model.
        vision: Of a vision tower alone (an mmproj): the fields of
            `kanna.families.towers.StoredTower`. None for others.
    """

    name: str
    path: str
    kind: str
    family: str
    known_family: bool
    parameters: int
    num_tensors: int
    bytes: int
    bits_per_weight: float
    precision_class: str
    types: list[dict[str, Any]]
    shape: dict[str, int]
    context: int | None
    tokenizer: dict[str, Any]
    chat_template: dict[str, Any]
    license: str | None
    hash: str | None
    provenance: dict[str, Any]
    tensors: list[dict[str, Any]]
    notes: list[str]
    problems: list[dict[str, str]]
    statistics: dict[str, Any] | None = None
    also: tuple[str, ...] = ()
    made: dict[str, Any] | None = None
    vision: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether kanna can convert it."""
        return not self.problems

    def headline(self) -> str:
        """Family, size and precision."""
        if self.statistics is not None:
            sites, tokens = self.statistics["sites"], self.statistics["tokens"]
            return f"{self.name}: statistics of {sites} inputs, {tokens:,} tokens"
        kind = "vision tower" if self.vision else self.family
        return (
            f"{self.name}: {kind}, {self.parameters / 1e6:.1f}M parameters, "
            f"{format_size(self.bytes)}, {self.bits_per_weight:.2f} bits per weight"
        )

    def facts(self) -> list[tuple[str, object]]:
        """What it is."""
        return [
            ("Path", self.path),
            ("Kind", self.kind),
            ("Vision tower", self.vision and towers.StoredTower(**self.vision).words()),
            *self.shape.items(),
            ("Context", self.context),
            ("Licence", self.license),
            ("Made by", self.made and f"kanna {self.made['version']}: {self.made['command']}"),
            ("Gate", self.made and self.made["gate"]),
            ("Problem", "; ".join(problem["found"] for problem in self.problems)),
        ]

    def tables(self) -> list[ResultTable]:
        """Tensors by encoding."""
        rows = [(t["encoding"], t["tensors"], format_size(t["bytes"])) for t in self.types]
        return [ResultTable(columns=("encoding", "tensors>", "size>"), rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON has it."""
        return asdict(self)


def inspect(
    source: str | Path | Source,
    *,
    revision: str | None = None,
    offline: bool = False,
    hash: bool | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Look at a source or at any GGUF; of a hub id only headers are fetched.

    A model that cannot be converted is still shown.

    Args:
        source: Any source, or a file or folder that kanna wrote.
        revision: Branch, tag or commit of a hub id.
        offline: Use only what is on this machine already.
        hash: True reads every byte, False none, None reads what takes less than a second.
        progress: Where hashing and fetching are reported.

    Raises:
        SourceError: A file cannot be read at all, and is no file of a known format.
    """
    problems: list[dict[str, str]] = []
    progress = shown(progress)
    if not isinstance(source, Source) and is_statistics(Path(source).expanduser()):
        return _statistics(Path(source).expanduser())
    try:
        opened = open_source(
            source, revision=revision, offline=offline, weights=False, progress=progress
        )
    except SourceError as error:
        opened = _unreadable(source)
        if opened is None:
            raise
        problems = [_problem(error)]
    model = _model(opened, problems)
    tower = towers.stored(model.metadata)
    # What is in the files, not what a conversion would make of it: tied copies count too.
    tensors = list(opened.tensors.values())
    weights = sum(num_weights(t) for t in tensors)
    num_bytes = sum(t.nbytes for t in tensors) if tensors else _file_bytes(opened)
    bits = bits_per_weight(num_bytes, weights)
    if hash is None:
        sizes = [p.stat().st_size for p in opened.weight_files if p.is_file()]
        hash = 0 < sum(sizes) <= _HASH_AT_ONCE
    written = provenance.of(model, opened)
    made = provenance.making(written, opened.path, compared=hash and opened.has_weights)
    return Inspection(
        name=model.name,
        path=str(opened.path),
        kind=_kind(opened),
        family=model.family,
        known_family=_is_known(opened, model) and not problems,
        parameters=weights,
        num_tensors=len(tensors),
        bytes=num_bytes,
        bits_per_weight=bits,
        precision_class=precision_class(bits) if bits else "",
        types=_types(tensors),
        shape=_shape(model),
        context=_whole(
            model.meta("{arch}.context_length") or opened.config.get("max_position_embeddings")
        ),
        tokenizer=_tokenizer(model),
        chat_template=_template(model, opened),
        license=_licence(model, opened),
        hash=_hash(opened, progress) if hash and opened.has_weights else None,
        provenance=written,
        made=made.to_dict() if made else None,
        tensors=[_row(tensor) for tensor in tensors],
        notes=[
            *(made.notes(model.notes) if made else model.notes),
            *([tower.purpose(opened.given)] if tower else _vectors(model)),
        ],
        problems=problems,
        also=families.other_names(model),
        vision=asdict(tower) if tower else None,
    )


def _model(opened: Source, problems: list[dict[str, str]]) -> Model:
    """The source as a model, or what is known of it; what stands in the way goes to `problems`."""
    if problems:
        return _unknown(opened)
    try:
        return families.load_model(opened)
    except KannaError as error:
        model = _unknown(opened)
        if encoder.is_encoder(opened.config):
            model.notes.append(
                "an encoder: it makes vectors and no text. It goes to ONNX: kanna convert "
                f"{opened.given} -o folder --preset onnx:int8"
            )
        else:
            problems.append(_problem(error))
        return model


def _statistics(folder: Path) -> Inspection:
    """What is known of a folder that `calibrate` wrote."""
    statistics = read_statistics(folder)
    layers = [asdict(layer) for layer in coverage(statistics.sites)]
    return Inspection(
        name=folder.absolute().name,
        path=str(folder),
        kind="calibration statistics",
        family="",
        known_family=False,
        parameters=0,
        num_tensors=0,
        bytes=sum(p.stat().st_size for p in folder.iterdir() if p.is_file()),
        bits_per_weight=0.0,
        precision_class="",
        types=[],
        shape={},
        context=None,
        tokenizer={"kind": None, "size": 0, "pre": None},
        chat_template={"present": False, "length": 0, "excerpt": ""},
        license=None,
        hash=None,
        provenance={"kanna.version": statistics.info.get("kanna")},
        tensors=[],
        notes=[],
        problems=[],
        statistics={
            "text": statistics.info["text"]["name"],
            "tokens": statistics.info["tokens"],
            "sites": len(statistics.sites),
            "coverage": layers,
        },
    )


_POOLINGS = {
    vectors.MEAN: "the mean of all tokens",
    vectors.FIRST: "the first token",
    vectors.LAST: "the last token",
}


def _vectors(model: Model) -> list[str]:
    """What a model is for that makes vectors or scores."""
    if vectors.ranks(model):
        return ["it ranks: a question and a text get a score (/v1/rerank of kanna serve)"]
    if not vectors.makes_vectors(model):
        return []
    how = _POOLINGS.get(vectors.pooling(model), "no pooling of its own")
    return [f"it makes vectors, of {how} (kanna embed, /v1/embeddings of kanna serve)"]


def _row(tensor: Tensor) -> dict[str, Any]:
    shape = [int(n) for n in tensor.shape]
    return {"name": tensor.name, "encoding": tensor.dtype, "shape": shape, "bytes": tensor.nbytes}


def _problem(error: KannaError) -> dict[str, str]:
    return {"found": error.found, "expected": error.expected, "todo": error.todo}


def _unreadable(given: str | Path | Source) -> Source | None:
    """A folder of a format that nothing is read back from, without tensors; None for others."""
    if isinstance(given, Source) or not (path := Path(given).expanduser()).is_dir():
        return None
    format = formats.recognize(path)
    if format is None or not format.runs:
        return None
    if format.check_names is not None:
        format.check_names(path, graphs=True)
    files = folder_files.files(path)
    return Source(
        kind="hf", path=path, name=path.absolute().name, given=str(given), tensors={}, files=files
    )


def _file_bytes(source: Source) -> int:
    """Bytes of all files of a folder whose tensors are not read."""
    return folder_size(source.path) if source.path.is_dir() else 0


def _kind(source: Source) -> str:
    if source.gguf is not None:
        return gguf.FORMAT.title
    format = formats.recognize(source.path)
    return f"{format.title} folder" if format is not None and format.runs else "Hugging Face model"


def _unknown(source: Source) -> Model:
    """The little that is known of a model no family fits: enough to show it."""
    metadata = source.gguf.metadata if source.gguf else {}
    family = metadata["general.architecture"].value if "general.architecture" in metadata else None
    classes = source.config.get("architectures")
    first = next(iter(classes), None) if isinstance(classes, list) else classes
    named = source.config.get("model_type") or first
    return Model(
        name=source.name,
        family=str(family or named or "unknown"),
        tensors=dict(source.tensors),
        metadata=dict(metadata),
        config=dict(source.config),
    )


def _is_known(source: Source, model: Model) -> bool:
    return source.kind == "hf" or any(
        families.get(n).arch == model.family for n in families.names()
    )


def _types(tensors: list[Tensor]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = defaultdict(lambda: {"tensors": 0, "weights": 0, "bytes": 0})
    for tensor in tensors:
        row = rows[tensor.dtype]
        row["tensors"] += 1
        row["weights"] += num_weights(tensor)
        row["bytes"] += tensor.nbytes
    return [
        {"encoding": k, **v} for k, v in sorted(rows.items(), key=lambda item: -item[1]["bytes"])
    ]


def _whole(value: Any) -> int | None:
    """An integer of the metadata; of one value per layer, the largest."""
    if isinstance(value, np.ndarray):  # checked when the file was opened
        value = int(value.max())
    return whole().convert(value)


def _shape(model: Model) -> dict[str, int]:
    sizes = {name: _whole(model.meta(f"{{arch}}.{key}")) for name, key in _SHAPE.items()}
    return {k: v for k, v in sizes.items() if v}


def _tokenizer(model: Model) -> dict[str, Any]:
    tokens = model.meta("tokenizer.ggml.tokens")
    return {
        "kind": model.meta("tokenizer.ggml.model"),
        "size": len(tokens) if tokens is not None else 0,
        "pre": model.meta("tokenizer.ggml.pre"),
    }


def _template(model: Model, source: Source) -> dict[str, Any]:
    text = model.meta("tokenizer.chat_template") or source.text("chat_template.jinja")
    shown = " ".join(str(text or "").split())
    return {
        "present": bool(text),
        "length": len(text or ""),
        "excerpt": shown[:80] + ("…" if len(shown) > 80 else ""),
    }


def _licence(model: Model, source: Source) -> str | None:
    """The licence in the metadata, else a licence file in the folder."""
    keys = ("general.license.name", "general.license")
    named = next(filter(None, map(model.meta, keys)), source.config.get("license"))
    if named:
        return str(named)
    file = next((n for n in source.files if n.upper().startswith(("LICENSE", "LICENCE"))), None)
    return f"see {file}" if file else None


def _hash(source: Source, progress: Progress | None) -> str:
    import hashlib

    hashes = source.hashes(progress)
    weights = [hashes[p.name] for p in source.weight_files]
    if len(weights) == 1:
        return f"sha256:{weights[0]}"
    return f"sha256:{hashlib.sha256(''.join(weights).encode()).hexdigest()}"
