"""An adapter alone, for a runtime that applies it beside its base: nothing is merged.

Each file beside this one is one format; `kanna.convert(source, adapter=…)` comes here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from kanna import adapters, encodings, provenance
from kanna._util import locks, own_files, plugins, special_files
from kanna.adapters.base_model import check_base
from kanna.adapters.placing import EMBEDDING, HEAD, place
from kanna.conversion.base import (
    ConversionRequest,
    ConvertResult,
    WriteOptions,
    described,
    sized_floats,
)
from kanna.encodings import Encoding
from kanna.errors import OutputError, UnsupportedError, UsageError
from kanna.families import gguf_factors, hf_names, load_decoder, same_values, text_name
from kanna.formats.base import FLOATS
from kanna.formats.stream import WriteResult
from kanna.model import Model, Tensor
from kanna.plan import Resolved, TensorPlan
from kanna.sources import Source, open_source

__all__ = [
    "AdapterPart",
    "AdapterWriter",
    "PlacedAdapter",
    "convert",
    "named_by",
    "names",
    "needs_base",
    "unnamed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPart:
    """One module's change, under the names of the base.

    Attributes:
        gguf_name: Of the matrix in a GGUF, as `blk.0.attn_q.weight`.
        hf_name: Of the module in Hugging Face.
        low_rank: The change.
    """

    gguf_name: str
    hf_name: str
    low_rank: adapters.LowRank

    @property
    def alpha(self) -> float:
        """The alpha that gives its strength where that is alpha by rank."""
        return self.low_rank.scale * self.low_rank.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedAdapter:
    """An adapter whose every part has its place in a base.

    Attributes:
        source: The base.
        model: The base as a model.
        adapter: What was given.
        parts: Every change, all of them low-rank.
        encoding: The floating type that is written.
        command: The command that makes it again.
        request: What was asked for.
    """

    source: Source
    model: Model
    adapter: adapters.LoraAdapter
    parts: Sequence[AdapterPart]
    encoding: Encoding
    command: str
    request: ConversionRequest

    def factors(self, part: AdapterPart) -> tuple[Tensor, Tensor]:
        """Left and right matrix in the orders of a GGUF."""
        return gguf_factors(self.model, part.gguf_name, *part.low_rank.tensors(part.hf_name))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterWriter:
    """How an adapter alone is written in one format.

    Attributes:
        plan: Its tensors; raises UnsupportedError for what the runtime would compute otherwise.
        check: Raises OutputError when it cannot be written there.
        write: Writes it, whole or not at all.
        takes: Fields of a request that it has a use for; with `encoding` alone, the adapter's own.
        describe: What would be written, where that is more than the adapter; it gets the path and
            the result of the adapter alone.
        needs_base: Whether the weights of the base are read, by the output's name.
        suffix: Of a file that can be of no other format.
    """

    plan: Callable[[PlacedAdapter], list[TensorPlan]]
    check: Callable[[Path, int, bool], None]
    write: Callable[[PlacedAdapter, Sequence[TensorPlan], Path, WriteOptions], WriteResult]
    takes: Sequence[str] = ("encoding",)
    describe: (
        Callable[[PlacedAdapter, Sequence[TensorPlan], Path | None, ConvertResult], ConvertResult]
        | None
    ) = None
    needs_base: Callable[[Path | None], bool] = lambda _: False
    suffix: str = ""


def names() -> tuple[str, ...]:
    """Formats that an adapter alone can be written in."""
    return plugins.names(__name__, "WRITER")


def _writer(format: str) -> AdapterWriter:
    """The writer of a format; UsageError for one that no adapter alone is written in."""
    if format not in names():
        raise UsageError(
            f"no adapter alone is written as {format}",
            expected=", ".join(names()),
            todo="merge it: kanna merge SRC ADAPTER -o OUT --format " + format,
        )
    return plugins.load(__name__, format, "WRITER")


def named_by(out: str | Path | None) -> str | None:
    """The format that the output's suffix names; None where it names none."""
    suffix = Path(out).suffix if out is not None else ""
    return next((name for name in names() if suffix and _writer(name).suffix == suffix), None)


def unnamed(out: str | Path, format: str) -> str:
    """What is said of an output whose name leaves the format open.

    Args:
        out: The output as it was named.
        format: What it is written in.
    """
    others = " or ".join(f"--format {name}" for name in names() if name != format)
    return f"{out} names no format: the adapter is written as {format}; {others} writes another"


def needs_base(format: str, out: str | Path | None) -> bool:
    """Whether weights of the base are read; raises UsageError for a format without adapters."""
    return _writer(format).needs_base(Path(out) if out is not None else None)


def convert(
    source: str | Path | Source,
    adapter: str | Path,
    out: str | Path | None,
    request: ConversionRequest | None = None,
    *,
    format: str,
    dry_run: bool = False,
    options: WriteOptions | None = None,
) -> ConvertResult:
    """Write an adapter for the runtime of a format.

    Args:
        source: Its base model, of which only headers are read.
        adapter: The folder that PEFT or mlx-lm saved.
        out: File or folder to write; None: only with dry_run.
        request: Its `encoding` is `f32`, `f16` or `bf16` and f32 by default; of ONNX it is the
            base's, and so are preset and plan.
        format: One of `names()`.
        dry_run: Only describe what would be written.
        options: How it is written.

    Raises:
        UnsupportedError: Something in it has no place beside a base in this format.
    """
    started, options = time.perf_counter(), options or WriteOptions()
    writer, request = _writer(format), request or ConversionRequest()
    _check(format, writer, request)
    placed = _placed(open_source(source), adapters.open_adapter(adapter), format, request)
    entries = writer.plan(placed)
    notes = [*placed.adapter.notes, *check_base(placed.source, [(placed.adapter, 1.0)])]
    if placed.adapter.draft_head:
        notes.append(
            "its retrained head for further tokens is left out, which no runtime takes beside a "
            "base: the base's own head guesses, and fewer guesses are right. kanna merge writes it"
        )
    resolved = _resolved(placed.encoding, entries)
    path = special_files.target(Path(out)) if out is not None else None
    result = described(
        sized_floats(resolved), paths=[path] if path else [], command=placed.command, notes=notes
    )
    if writer.describe is not None:
        result = writer.describe(placed, entries, path, result)
    if dry_run or path is None:
        return result
    for what, given in (("source", placed.source.path), ("adapter", placed.adapter.path)):
        if path.exists() and path.resolve() == given.resolve():
            raise OutputError(f"{path} is the {what} itself", todo="choose another name")
    with locks.holding(path, "convert"):
        own_files.sweep_for(path)
        writer.check(path, result.file_bytes, options.overwrite)
        written = writer.write(placed, entries, path, options)
    return replace(
        result,
        paths=written.paths,
        file_bytes=written.file_bytes,
        peak_bytes=written.peak_bytes,
        notes=result.notes + written.notes,
        seconds=time.perf_counter() - started,
    )


def _resolved(chosen: Encoding, entries: list[TensorPlan]) -> Resolved:
    return Resolved(
        name=f"adapter in {chosen.name}",
        entries=entries,
        substitutions=[],
        nominal_bits=chosen.bits,
        bits=chosen.bits,
    )


def _check(format: str, writer: AdapterWriter, request: ConversionRequest) -> None:
    """UsageError for options that the adapters of a format have no use for."""
    for field in fields(request):
        if field.name not in writer.takes and getattr(request, field.name) not in (None, ()):
            raise UsageError(
                f"--{field.name.replace('_', '-')} is of no use with --adapter, which writes the "
                "adapter alone"
                + (", beside a base that takes it" if "preset" in writer.takes else ""),
                expected=", ".join(f"--{name}" for name in ("format", *writer.takes)),
                todo="kanna merge SRC ADAPTER -o OUT merges it, and takes --preset and --verify",
            )
    if "preset" not in writer.takes and (request.encoding or "f32") not in FLOATS:
        raise UsageError(
            f"an adapter is not quantized, and --encoding is {request.encoding}",
            expected=", ".join(FLOATS),
            todo="kanna merge SRC ADAPTER -o OUT --encoding ENCODING quantizes the merged model",
        )


def _changed(adapter: adapters.LoraAdapter, base: dict[str, Tensor]) -> list[str]:
    """Tensors that are given whole and are not those of the base.

    PEFT saves the base's own matrix beside a low-rank change of an embedding.
    """
    changed: list[str] = []
    for name, tensor in adapter.replaced.items():
        own = base.get(text_name(name))
        if (
            own is None
            or name.removesuffix(".weight") not in adapter.low_rank
            or own.shape != tensor.shape
            or (own.dtype in FLOATS and not same_values(own, tensor))
        ):
            changed.append(name)
    return changed


def _placed(
    source: Source, adapter: adapters.LoraAdapter, format: str, request: ConversionRequest
) -> PlacedAdapter:
    own = "preset" not in _writer(format).takes  # else the encoding is the base's
    encoding = (request.encoding if own else None) or "f32"
    model = load_decoder(source)
    gguf_by_hf = {text_name(hf): gguf for gguf, hf in hf_names(model).items()}
    by_hf = {hf: model.tensors[gguf] for hf, gguf in gguf_by_hf.items()}
    tied = f"{HEAD}.weight" not in by_hf
    merge = f"kanna merge {source.given} {adapter.given} -o merged/"
    whole = [*_changed(adapter, by_hf), *adapter.rows, *adapter.bias]
    dora = [m for m, change in adapter.low_rank.items() if change.magnitude is not None]
    shared = [m for m in adapter.low_rank if tied and text_name(m) in (EMBEDDING, HEAD)]
    for where, why in (
        (whole, "values of its own for"),
        (dora, "DoRA on"),
        (shared, "a change of a matrix that is head and embedding,"),
    ):
        if where:
            raise UnsupportedError(
                f"{adapter.given} has {why} {where[0]}, which no runtime applies beside a base",
                expected="LoRA or rsLoRA alone",
                todo=f"merge it: {merge}",
            )
    adapter = replace(adapter, replaced={})
    place(replace(source, tensors=by_hf), [(adapter, 1.0)])
    parts = [
        AdapterPart(
            gguf_name=gguf_by_hf[f"{text_name(module)}.weight"],
            hf_name=text_name(module),
            low_rank=change,
        )
        for module, change in adapter.low_rank.items()
    ]
    options = {"adapter": Path(adapter.given).name, "format": format} | (
        {"encoding": encoding}
        if own
        else {k: v for k in ("preset", "encoding") if (v := getattr(request, k)) is not None}
    )
    return PlacedAdapter(
        source=source,
        model=model,
        adapter=adapter,
        parts=sorted(parts, key=lambda part: list(model.tensors).index(part.gguf_name)),
        encoding=encodings.get(encoding),
        command=provenance.command(source, options),
        request=request,
    )
