"""The verb `merge`: adapters computed into their base model while it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kanna import adapters, conversion, formats
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.units import Size, format_size, optional_size
from kanna.adapters import AdapterWeights
from kanna.adapters.merged_gguf import published_base, quantized_tensors
from kanna.conversion import ConversionRequest, ConvertResult, WriteOptions
from kanna.errors import UsageError
from kanna.evaluation.reference import reference_folder
from kanna.formats.base import FLOATS
from kanna.formats.gguf import FORMAT as GGUF
from kanna.formats.safetensors import FORMAT as FOLDER
from kanna.hardware.cpu import default_threads
from kanna.merging import requantized
from kanna.plan import Plan
from kanna.sources import Source, open_source
from kanna.verified_conversion import begin_examination, examine

__all__ = ["merge"]


def merge(
    source: str | Path | Source,
    adapter: AdapterWeights,
    out: str | Path | None = None,
    *,
    format: str | None = None,
    preset: str | None = None,
    encoding: str | None = None,
    plan: str | Path | None = None,
    statistics: str | Path | None = None,
    split_max_size: Size | None = None,
    requantize: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> ConvertResult:
    """Write `source` with adapters merged into it, in float32 arithmetic, tensor by tensor.

    Nothing is loaded whole: memory stays at a few blocks of rows. An adapter that cannot be taken
    exactly, or was trained on another base, is refused before anything is written.

    Args:
        source: The base model, best as it was published, in 16 bits; a GGUF takes plain LoRA.
        adapter: A folder that PEFT or mlx-lm saved, `folder=0.5` with a weight, or several.
        out: File or folder to write; None: only with dry_run.
        format: What is written; None: what the name of `out` says (.gguf), else a Hugging Face
            folder.
        preset: A named plan, such as Q4_K_M; None: the floating type of the base, of a GGUF the
            types that its tensors have.
        encoding: One encoding for every matrix.
        plan: A plan file, as `kanna optimize --adapter` writes it.
        statistics: A folder of statistics of the merged model.
        split_max_size: Largest size of a part, as 2GB or bytes.
        requantize: Round matrices of a quantized GGUF again, with the change in them; without it
            that is refused, with what it would cost.
        dry_run: Check adapters and base, and only describe what would be written.
        threads: Threads to use; None: all cores.
        overwrite: Replace what is at `out`.
        verify: Prove what was written in its runtime, against the merged model in float32.
        revision: Branch, tag or commit of a base on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: a bar in terminals and notebooks.

    Returns:
        What was written, or with `dry_run` what would be.

    Raises:
        SourceError: Adapter and base do not fit, or one cannot be taken exactly.
        UsageError: Matrices would be rounded a second time, and nobody asked for it.
    """
    progress = shown(progress)
    opened = open_source(source, revision=revision, offline=offline, progress=progress)
    read = adapters.open_adapters(adapter, offline=offline)
    of_gguf = opened.kind == GGUF.name
    merged = adapters.merged_source(opened, read)
    format = format or _format_of(out)
    chosen, preset = formats.parse_preset(format, preset)
    same: Plan | None = None
    if preset is None and encoding is None and plan is None and chosen != FOLDER.name:
        if of_gguf and chosen == GGUF.name:
            same = requantized.same_types(opened)
        else:
            preset = _whole(merged, chosen)
    again = of_gguf and _rounds(chosen, preset, encoding)
    if again and not requantize:
        _refuse_rounding(merged, published_base(opened, read))
    result = conversion.convert(
        merged,
        out,
        ConversionRequest(
            preset=preset,
            encoding=encoding,
            plan=same or (Path(plan) if plan is not None else None),
            statistics=Path(statistics) if statistics is not None else None,
            split_max_size=optional_size(split_max_size),
        ),
        format=chosen,
        dry_run=dry_run,
        options=WriteOptions(
            threads=threads or default_threads(),
            overwrite=overwrite,
            examine=examine,
            begin_examination=begin_examination,
            progress=progress,
        ),
    )
    if again and same is not None and not dry_run:
        result = _with_cost(result, merged)
    if dry_run or not verify:
        return result
    from kanna.verification import verify as prove  # runtimes load only for a proof

    # A GGUF is held to its own keys, which a folder made of it changes.
    whole = merged if merged.gguf is not None else reference_folder(merged, progress=progress)
    proof = prove(whole, result.paths[0], threads=threads)
    return replace(result, verify=proof)


def _rounds(format: str, preset: str | None, encoding: str | None) -> bool:
    """Whether matrices are stored in a type that rounds them."""
    whole = formats.get(format).whole_presets.values()
    return format != FOLDER.name and encoding not in FLOATS and preset not in whole


def _refuse_rounding(merged: Source, published: str) -> None:
    """UsageError, with figures, where a quantized base would be rounded a second time."""
    kinds = quantized_tensors(merged)
    cost = requantized.measure(merged, requantized.rounded_again(merged))
    if cost is None:
        return
    named = f": {published}" if published else ""
    raise UsageError(
        f"{merged.given} is quantized ({', '.join(sorted(kinds))}): {cost.sentence()}",
        expected=f"the model in 16 bits that it was made from{named}",
        todo="merge into that one, which is rounded once; or --requantize, or --preset F16, which "
        "rounds nothing again",
    )


def _with_cost(result: ConvertResult, merged: Source) -> ConvertResult:
    """The result with what storing again cost, read from what was written."""
    tensors = open_source(result.paths[0]).tensors
    cost = requantized.measure(merged, lambda name, a, b: tensors[name].rows(a, b))
    if cost is None:
        return result
    size = sum(tensor.nbytes for tensor in open_source(merged.path).tensors.values())
    note = (
        f"{cost.sentence()}; tensors take {format_size(size)} before and "
        f"{format_size(sum(t.nbytes for t in tensors.values()))} now"
    )
    return replace(result, notes=[*result.notes, note])


def _format_of(out: str | Path | None) -> str:
    """The format that the name of a file means; a folder is one of Hugging Face's."""
    suffix = Path(out).suffix.lower() if out is not None else ""
    named = (n for n in conversion.names() if suffix and formats.get(n).suffix == suffix)
    return next(named, FOLDER.name)


def _whole(source: Source, format: str) -> str:
    """The preset that keeps the base's own floating type."""
    sizes: dict[str, int] = dict.fromkeys(FLOATS, 0)
    for tensor in source.tensors.values():
        if tensor.dtype in sizes:
            sizes[tensor.dtype] += tensor.nbytes
    presets = formats.get(format).whole_presets
    best = max(presets, key=lambda name: sizes.get(name, 0), default=None)
    if best is None:
        raise UsageError(f"{format} needs a preset", expected="--preset")
    return presets[best]
