"""Which artefacts a comparison makes, and what headers tell of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna import formats
from kanna._util.units import precision_class
from kanna.comparison.formats import PresetChoice
from kanna.comparison.rows import Row
from kanna.conversion import ConversionRequest, ConvertResult, convert
from kanna.errors import KannaError, UsageError
from kanna.model import num_weights
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedComparison:
    """The artefacts of a comparison, none of them made.

    Attributes:
        rows: The baseline first.
        requests: How each is converted, by the name of its row.
        notes: What was left out, and why.
    """

    rows: list[Row]
    requests: dict[str, ConversionRequest]
    notes: list[str]


def source_type(source: Source) -> str:
    """The type of 16 bits, `bf16` or `f16`, that holds a source best.

    Float16 for wider or quantized sources, which it holds more exactly.
    """
    weights: dict[str, int] = {}
    for tensor in source.tensors.values():
        weights[tensor.dtype] = weights.get(tensor.dtype, 0) + num_weights(tensor)
    return "bf16" if max(weights, key=lambda k: weights[k]) == "bf16" else "f16"


def base_name(source: Source) -> str:
    """A file name for the model, without folder, ending or the precision it had."""
    name = source.given.removeprefix("builtin:").rstrip("/").replace("\\", "/").split("/")[-1]
    if name in {"", ".", ".."}:
        name = source.path.absolute().name
    name = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name, flags=re.IGNORECASE)
    name = re.sub(
        r"[-._](i?q\d\w*|tq\d\w*|bf16|f16|f32|fp16|fp32|mxfp4|nvfp4)$",
        "",
        name,
        flags=re.IGNORECASE,
    )
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "model"


def plan_rows(
    source: Source, chosen: Sequence[PresetChoice], out: Path, imatrix: str | Path | None
) -> PlannedComparison:
    """Plan the baseline and every chosen artefact; what a format refuses is left out with a note.

    Args:
        source: What is converted.
        chosen: What to make; the baseline is of the first one's format.
        out: The folder of the artefacts.
        imatrix: llama.cpp's importance matrix, or None.

    Raises:
        KannaError: What makes the conversions of the first format impossible.
    """
    name, first = base_name(source), chosen[0].format
    whole = formats.get(first).whole_presets[source_type(source)]
    base = PresetChoice(format=first, preset=whole, named=True)
    planned = PlannedComparison(rows=[], requests={}, notes=[])
    for choice in [base, *[c for c in chosen if c.name != base.name]]:
        # An importance matrix has no use for 16 bits.
        weighted = imatrix if choice.format == formats.DEFAULT and choice is not base else None
        request = ConversionRequest(preset=choice.name, imatrix=weighted)
        role = "baseline" if choice is base else "candidate"
        try:
            row = plan_row(
                source, choice.path(out, name), request=request, name=choice.name, role=role
            )
        except KannaError as error:
            if choice.format == first or (choice.named and isinstance(error, UsageError)):
                raise
            planned.notes.append(f"{choice.name} was left out: {error.found}")
            continue
        planned.rows.append(row)
        planned.requests[choice.name] = request
    return planned


def plan_row(
    source: Source, path: Path, *, request: ConversionRequest, name: str, role: str
) -> Row:
    """The row of an artefact that is not made yet; raises what makes the conversion impossible."""
    result = convert(source, path, request, dry_run=True)
    format, _ = formats.parse_preset(None, request.preset)
    return planned_row(result, path=path, name=name, role=role, format=format)


def planned_row(result: ConvertResult, *, path: Path, name: str, role: str, format: str) -> Row:
    """The row of what a conversion makes or would make at `path`."""
    data = result.to_dict()
    return Row(
        name=name,
        role=role,
        preset=data["preset"],
        format=format,
        path=str(path),
        file=path.name,
        file_bytes=data["file_bytes"],
        bits_per_weight=data["bits_per_weight"],
        nominal_bits=data["nominal_bits"],
        precision_class=precision_class(data["bits_per_weight"]),
        command=data["command"],
        substitutions=data["substitutions"],
        tensors=data["tensors"],
        notes=list(data["notes"]),
    )
