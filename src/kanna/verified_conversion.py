"""The verb `convert`: a conversion and, when asked for, the proof of what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from kanna import conversion, formats
from kanna._util.arguments import several
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.units import Size, optional_size
from kanna.conversion import (
    ConversionRequest,
    ConvertResult,
    WriteOptions,
    lone_adapter,
    lone_tower,
)
from kanna.conversion.base import Examination
from kanna.errors import UsageError
from kanna.hardware import device_speeds, mask
from kanna.hardware.cpu import default_threads
from kanna.model import MetaValue
from kanna.plan import Plan
from kanna.sources import Source, open_source

__all__ = ["ConvertResult", "convert"]


def convert(
    source: str | Path | Source,
    out: str | Path | None = None,
    *,
    preset: str | None = None,
    encoding: str | None = None,
    plan: str | Path | Plan | None = None,
    imatrix: str | Path | None = None,
    statistics: str | Path | None = None,
    dry_run: bool = False,
    split_max_size: Size | None = None,
    format: str | None = None,
    method: str | None = None,
    device: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    static: str | None = None,
    provider: str | None = None,
    adapter: str | Path | None = None,
    mmproj: bool = False,
    target: str | None = None,
    nonfinite: str = "refuse",
    threads: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> ConvertResult:
    """Write `source` as one file.

    Raises KannaError before anything is written whenever headers can tell; never leaves a partial
    file under the final name.

    Args:
        source: What is converted.
        out: File or folder to write; None: only with dry_run.
        preset: A named plan; the format has a default. One of preset, encoding and plan.
        encoding: One encoding for every matrix.
        plan: A plan, or a file of one.
        imatrix: llama.cpp's importance matrix.
        statistics: A folder that `kanna calibrate` wrote.
        dry_run: Only describe what would be written.
        split_max_size: Largest size of a part, as 2GB or bytes; None writes one file.
        format: One of `kanna.conversion.names()`; None: what the preset names, as in `mlx:q4`,
            else `gguf`. `safetensors` makes a Hugging Face folder in bf16, f16 or f32.
        method: How values are chosen; None: `gptq` with statistics, else `search`.
        device: Where `gptq` runs: `cpu`, `cuda` or `mps`; None: an accelerator when there is one.
        include: Patterns of the names of matrix products that an int8 graph of ONNX quantizes.
        exclude: Patterns of the names of matrix products that such a graph leaves float.
        static: ONNX graphs of fixed shapes, as NPUs need them: chunk × context, such as 64x2048.
        provider: The execution provider of onnxruntime that an ONNX folder is for, such as qnn:
            what it does not multiply is refused, and nodes that it does not take are named.
        adapter: A folder that PEFT or mlx-lm saved: it alone is written, for the runtime of the
            format to apply beside `source`; `kanna.merge` merges it. In ONNX a base whose graph
            takes it is written too, unless the output ends on `.onnx_adapter`.
        mmproj: The vision tower alone is written, as llama.cpp's mmproj, for its runtime to read
            beside the GGUF of the text: in f16, or by `encoding` in f32, bf16 or q8_0.
        target: A device and its backend, such as raspberry-pi-5 or snapdragon-8-elite:hexagon: a
            plan with tensors that it does not multiply is refused.
        nonfinite: `refuse` a source with NaN or infinity, or store `zero` in their place.
        threads: Threads to use; None: all cores.
        overwrite: Replace what is at `out`.
        verify: Check the file in its runtime afterwards, as `kanna.verify` does.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: a bar in terminals and notebooks.

    Returns:
        What was written, or with `dry_run` what would be.
    """
    request = ConversionRequest(
        preset=preset,
        encoding=encoding,
        plan=plan,
        imatrix=imatrix,
        statistics=statistics,
        method=method,
        device=device,
        split_max_size=optional_size(split_max_size),
        include=tuple(several(include)),
        exclude=tuple(several(exclude)),
        static=static,
        provider=provider,
    )
    if adapter is not None:
        _refuse_with_adapter(verify, target)
    options = WriteOptions(
        threads=threads or default_threads(),
        overwrite=overwrite,
        nonfinite=nonfinite,
        examine=examine,
        begin_examination=begin_examination,
        approve=_approval(target, formats.parse_preset(format, preset)[0]),
        progress=shown(progress),
    )
    if mmproj:
        _refuse_with_tower(request, adapter=adapter, format=format, target=target, verify=verify)
        tower = lone_tower.open_tower(source, revision, offline, not dry_run, options)
        return lone_tower.convert(tower, out, encoding=encoding, dry_run=dry_run, options=options)
    if adapter is not None:
        named = format or lone_adapter.named_by(out)
        format, preset = formats.parse_preset(named, preset)
        conversion.refuse_folder_name(out, format)
        whole = lone_adapter.needs_base(format, out) and not dry_run
        opened = open_source(
            source, revision=revision, offline=offline, weights=whole, progress=options.progress
        )
        request = replace(request, preset=preset)
        alone = lone_adapter.convert(
            opened, adapter, out, request, format=format, dry_run=dry_run, options=options
        )
        if named is None and preset is None and out is not None:
            alone = replace(alone, notes=[*alone.notes, lone_adapter.unnamed(out, format)])
        return alone
    result = conversion.convert(
        source,
        out,
        request,
        format=format,
        dry_run=dry_run,
        options=options,
        revision=revision,
        offline=offline,
    )
    if dry_run or not verify:
        return result
    return _proved(
        result, source, threads=threads, revision=revision, offline=offline, progress=progress
    )


def _proved(result: ConvertResult, source: str | Path | Source, **options: Any) -> ConvertResult:
    """What was written, with its proof; `options` are those of `kanna.verify`."""
    from kanna.verification import verify as prove  # runtimes load only for a proof

    return replace(result, verify=prove(source, result.paths[0], **options))


def _approval(target: str | None, format: str) -> Callable[[ConvertResult], ConvertResult] | None:
    """Refuses what a device does not multiply; None without a device."""
    device = device_speeds.choose_for(target, format)
    if device is None:
        return None

    def approve(result: ConvertResult) -> ConvertResult:
        tensors = [(t["name"], t["encoding"], t["shape"]) for t in result.tensors]
        notes = mask.check(device, tensors, result.preset)
        return replace(result, notes=[*result.notes, *notes])

    return approve


def _refuse_with_tower(request: ConversionRequest, **others: object) -> None:
    """UsageError for what is of no use to a vision tower that is written alone.

    Args:
        request: The request; a tower takes its encoding.
        others: Further options by name.
    """
    given = {f.name: getattr(request, f.name) for f in fields(request)} | others
    for name, value in given.items():
        if value in (None, (), False) or (name, value) == ("format", formats.DEFAULT):
            continue
        if name != "encoding":
            raise UsageError(
                f"--{name.replace('_', '-')} is of no use with --mmproj, which writes the vision "
                "tower alone",
                expected="--encoding",
                todo="convert the model of text by a command of its own",
            )


def _refuse_with_adapter(verify: bool, target: str | None) -> None:
    """UsageError for what is of no use to an adapter that is written alone."""
    if given := [name for name, value in (("--verify", verify), ("--target", target)) if value]:
        raise UsageError(
            f"{given[0]} is of no use with --adapter, which writes the adapter alone",
            expected="--format and --encoding",
            todo="kanna merge SRC ADAPTER -o OUT merges it, and takes --preset and --verify",
        )


def examine(source: Source, metadata: Mapping[str, MetaValue]) -> list[str]:
    """Check the tokenizer that is about to be written; see `written_tokenizer.examine`.

    Args:
        source: What is converted.
        metadata: Keys of the file.
    """
    if source.kind != "hf":
        return []
    from kanna.verification import written_tokenizer  # the runtime loads for it alone

    return written_tokenizer.examine(source, metadata)


def begin_examination(source: Source) -> Examination:
    """Check rope, sizes and tokenizer of what is written.

    See `written_config.begin` and `folder_tokenizer.examine`.
    """
    from kanna.verification import folder_tokenizer  # both load for this alone
    from kanna.verification.written_config import begin

    of_config = begin(source)
    return lambda written: [*of_config(written), *folder_tokenizer.examine(source, written)]
