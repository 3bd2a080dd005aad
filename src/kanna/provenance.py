"""What an artefact says of how it was made.

Sources, plan, statistics, version, and the command that makes it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna import __version__
from kanna._util import verified
from kanna._util.typed import text
from kanna.checks import GATE, gate_word
from kanna.errors import FormatError, KannaError, SourceError
from kanna.escaping import argument, shell_line
from kanna.formats import folder_files, gguf
from kanna.formats.text_files import read_object
from kanna.methods.device import CPU
from kanna.model import (
    ALREADY_QUANTIZED,
    MetaValue,
    Model,
    ValueType,
    array,
    num_weights,
    string,
    u32,
)

if TYPE_CHECKING:
    from kanna.calibration.imatrix import Imatrix
    from kanna.calibration.statistics import Statistics
    from kanna.plan import Resolved, TensorPlan
    from kanna.sources import Source

QUANTIZATION_VERSION = 2
SOURCE_HASHES = "kanna.source.sha256"
TUNING = "kanna.tuning.sha256"
FILE = "kanna.json"
"""Of a folder whose format has no place for it."""
# Left by whoever quantized the source: no longer true of what we write.
_STALE = ("quantize.imatrix.", "kanna.")


def of_folder(folder: Path) -> dict[str, str]:
    """What `folder` says of itself; {} where it says nothing that can be read."""
    try:
        values = read_object(folder / FILE).values
    except FormatError:
        return {}
    return {k: v for k, v in values.items() if k.startswith("kanna.") and isinstance(v, str)}


def of(model: Model, source: Source) -> dict[str, Any]:
    """What kanna, or another converter, left about how a file or folder was made.

    JSON values are parsed.
    """
    entries: dict[str, Any] = {}
    written: dict[str, Any] = {key: meta.value for key, meta in model.metadata.items()}
    if source.path.is_dir():
        written |= of_folder(source.path)
    for key, value in written.items():
        if key.startswith("kanna.") or key in ("general.quantized_by", "quantize.imatrix.file"):
            if isinstance(value, str) and value.startswith("{"):
                with suppress(ValueError, RecursionError):
                    value = json.loads(value)
            entries[key] = (
                list(value)
                if hasattr(value, "__len__") and not isinstance(value, (str, dict))
                else value
            )
    return entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How kanna made a file or folder.

    Attributes:
        version: Of kanna.
        source: What it was made from.
        plan: The preset, or the name of the plan.
        encodings: Number of tensors by encoding and method, `q4_k:search`.
        command: What makes it again.
        source_quantized: Encodings of a source that was quantized before; "" for another.
        gate: What the gate report beside it says, as a sentence; "" where there is none.
    """

    version: str
    source: str
    plan: str
    encodings: Mapping[str, int]
    command: str
    source_quantized: str = ""
    gate: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def notes(self, notes: Sequence[str]) -> list[str]:
        """Notes on a source, with one on this file in the place of that on quantized sources."""
        better_start = (
            f"it was made by kanna from {self.source}: to make another preset, start from that, "
            "not from this file, whose losses would stay"
        )
        others = [n for n in notes if not n.startswith(ALREADY_QUANTIZED)]
        return others if others == list(notes) else [better_start, *others]


def making(written: Mapping[str, Any], path: Path, *, compared: bool) -> Making | None:
    """How kanna made what says this of itself; None for what kanna did not write.

    Args:
        written: As `of` gives it.
        path: The file or folder.
        compared: Whether the files are hashed, to tell whether a gate report is about them.
    """
    version, source = written.get("kanna.version"), written.get("kanna.source")
    if not isinstance(version, str) or not isinstance(source, str):
        return None
    mix = written.get("kanna.plan.encodings")
    return Making(
        version=version,
        source=source,
        plan=str(written.get("kanna.plan") or ""),
        encodings={k: v for k, v in mix.items() if isinstance(v, int)}
        if isinstance(mix, dict)
        else {},
        command=str(written.get("kanna.command") or ""),
        source_quantized=str(written.get("kanna.source.quantized") or ""),
        gate=_gate(path, compared),
    )


def _gate(path: Path, compared: bool) -> str:
    """What the report beside a file says of it."""
    report = path.absolute().with_name(path.absolute().name + GATE)
    try:
        values = read_object(report)
        status, files = values.need("status", text(40)), values.part("files").values
        checks = len(values.values.get("checks") or ())
    except (KannaError, TypeError):
        return ""
    verdict = f"{gate_word(status)}, {checks} checks ({report.name})"
    if not compared:
        return f"{verdict}; whether it is about these very files was not looked at"
    same = {place: verified.digest(file) for place, file in files_of(path).items()} == dict(files)
    return verdict if same else f"{report.name} is about other files than these"


def files_of(artefact: Path) -> dict[str, Path]:
    """Files of an artefact by their path in it."""
    if artefact.is_dir():
        return {str(place): path for place, path in folder_files.walked(artefact)}
    try:
        return {path.name: path for path in gguf.read(artefact).paths}
    except SourceError:  # what was checked may be anything
        return {artefact.name: artefact}


def quantized_source(model: Model | Source) -> dict[str, int]:
    """Number of weights by quantized encoding of the source; empty when it holds full precision."""
    from kanna import encodings

    weights: dict[str, int] = {}
    known = {*encodings.names(), *encodings.grouped.names()}
    for tensor in model.tensors.values():
        if tensor.dtype in known and encodings.get(tensor.dtype).block > 1:
            weights[tensor.dtype] = weights.get(tensor.dtype, 0) + num_weights(tensor)
    return weights


def carried(model: Model, own: Mapping[str, MetaValue]) -> dict[str, MetaValue]:
    """The keys of the model that an artefact keeps next to `own`, those kanna writes."""
    return {k: v for k, v in model.metadata.items() if not k.startswith(_STALE) and k not in own}


def keys(
    model: Model,
    source: Source,
    resolved: Resolved,
    *,
    hashes: Mapping[str, str] | None,
    command: str,
    imatrix: Imatrix | None = None,
    statistics: Statistics | None = None,
    file_type: int | None = None,
) -> dict[str, MetaValue]:
    """The keys that say how the artefact was made; of the same length for any hashes.

    Args:
        model: What was converted.
        source: Where it came from.
        resolved: The plan, tensor by tensor.
        hashes: SHA-256 of the source's files by name; None writes zeros in their place.
        command: The command that makes the artefact again.
        imatrix: The importance matrix that was used.
        statistics: The statistics that were used.
        file_type: llama.cpp's number of the plan, for a GGUF.
    """
    values: dict[str, MetaValue] = {
        "general.quantization_version": u32(QUANTIZATION_VERSION),
        **({} if file_type is None else {"general.file_type": u32(file_type)}),
        "kanna.version": string(__version__),
        "kanna.command": string(command),
        "kanna.plan": string(resolved.name),
        "kanna.plan.encodings": string(json.dumps(_encodings(resolved), separators=(",", ":"))),
        "kanna.source": string(_plain_name(source)),
        SOURCE_HASHES: source_hashes(source, hashes),
    }
    if source.revision:
        values["kanna.source.revision"] = string(source.revision)
    if before := quantized_source(model):
        largest = sorted(before, key=lambda name: -before[name])
        values["kanna.source.quantized"] = string(", ".join(largest))
    if resolved.substitutions:
        pairs = sorted({f"{s.wanted} -> {s.got}" for s in resolved.substitutions})
        values["kanna.plan.substitutions"] = array(pairs, ValueType.STR)
    if resolved.tuning is not None:
        values[TUNING] = string(resolved.tuning)
    if statistics is not None:
        values["kanna.statistics.sha256"] = string(statistics.sha256)
        if statistics.computed_on != CPU:  # another device's differ in the last place
            values["kanna.statistics.device"] = string(statistics.computed_on)
    if imatrix is not None:
        values["kanna.imatrix.sha256"] = string(imatrix.sha256)
        values["quantize.imatrix.file"] = string(imatrix.path.name)
        values["quantize.imatrix.dataset"] = string(
            ", ".join(Path(d).name for d in imatrix.datasets)
        )
        values["quantize.imatrix.entries_count"] = u32(len(imatrix.weights))
        values["quantize.imatrix.chunks_count"] = u32(imatrix.chunks)
    return values


def _encodings(resolved: Resolved) -> dict[str, int]:
    """Number of tensors by encoding, method and device, where that is not the CPU."""
    counts: dict[str, int] = {}
    for entry in resolved.entries:
        key = (
            f"{entry.encoding.name}:{entry.method}{_device(entry)}"
            if entry.encoding.block > 1
            else entry.encoding.name
        )
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))


def _device(entry: TensorPlan) -> str:
    """Where an entry's values were chosen: sums of another device end in other bits."""
    return "" if entry.device == CPU else f" on {entry.device}"


def source_hashes(source: Source, hashes: Mapping[str, str] | None) -> MetaValue:
    """The value of SOURCE_HASHES; of the same length for any hashes."""
    digests = {name: (hashes or {}).get(name, "0" * 64) for name in source.decisive_names}
    return string(json.dumps(digests, separators=(",", ":")))


def _plain_name(source: Source) -> str:
    """The source without its folder, so that the same source gives the same bytes anywhere."""
    return (
        Path(source.given).name
        if source.path.exists() and Path(source.given).exists()
        else source.given
    )


def _last(name: str) -> str:
    """An adapter with its weight, without the folders before its name."""
    return Path(name).name if Path(name.partition("=")[0]).exists() else name


def command(source: Source, options: Mapping[str, object]) -> str:
    """The command that makes the artefact again, without names of outputs and folders."""
    parts = ["kanna", "convert", argument(_plain_name(source))]
    if source.merged:
        parts = ["kanna", "merge", argument(_plain_name(source))]
        parts += [argument(_last(name)) for name in source.merged]
    for name, value in options.items():
        if value is not None:
            text = value.name if isinstance(value, Path) else str(value)
            parts += [f"--{name.replace('_', '-')}", text]
    return shell_line(parts)
