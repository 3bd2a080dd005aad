"""Optimize: the artefact closest to the source among all that a stock runtime loads within a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kanna._util.progress import Progress, Silent
from kanna.calibration import TOKENS
from kanna.errors import UsageError
from kanna.optimization import adapters, pipeline
from kanna.optimization.context import Context
from kanna.optimization.request import EFFORTS, Effort, OptimizeRequest
from kanna.optimization.result import OptimizeResult
from kanna.optimization.stages import STAGES, Stage

__all__ = ["EFFORTS", "EXTRA", "STAGES", "Effort", "OptimizeResult", "Stage", "optimize"]

EXTRA = "torch"
DEFAULT = "gguf"


def optimize(
    source: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    bpw: float | None = None,
    like: str | None = None,
    memory: int | None = None,
    context: int = 4096,
    calibration: Sequence[str | Path] | None = None,
    tokens: int = TOKENS,
    effort: str = "balanced",
    keep: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rules: Mapping[str, str] | None = None,
    text: str | Path | None = None,
    windows: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    format: str | None = None,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> OptimizeResult:
    """Search the best plan within a budget, write it, prove it and report it in the folder `out`.

    One of size (bytes of the file), bpw (bits per weight of the file), like (the size of a preset)
    and memory (bytes that weights, cache and buffers may take in llama.cpp at `context` tokens, the
    encoding of the cache chosen too).

    Raises UsageError, PlanError (with the feasible range), MissingError without torch or llama.cpp.
    Every stage is kept: an interrupted run goes on, and another budget for the same source needs no
    calibration.

    Args:
        source: What is converted.
        out: The folder for the artefact, its statistics and the report.
        size: Bytes of the file.
        bpw: Bits per weight of the whole file.
        like: A preset, whose size is the budget.
        memory: Bytes of llama.cpp with its cache full.
        context: Tokens of that cache.
        windows: Of 512 tokens to evaluate; None: as `evaluate` does.
        threads: None: one per physical core.
        calibration, tokens, device: As for `calibrate`, whose statistics are kept in `out` and used
            again.
        effort: `fast` trusts predictions; `balanced` corrects them by measuring every kind of
            tensor in the runtime; `max` then tries swaps of encodings there until none gains (GGUF
            alone), and tunes scales and norms.
        keep: Patterns of tensors that stay at 16 bits.
        exclude: Encodings not to be used.
        rules: Pattern → encoding.
        text: What the result is evaluated on; None: the WikiText-2 test set.
        format: `gguf` (the default), `onnx`, whose budget counts every file of the folder, or
            `mlx`, whose budget counts the weight files.
    """
    if format is not None and format not in adapters.names():
        raise UsageError(
            f"--format {format} is not searched", expected=" or ".join(adapters.names())
        )
    request = OptimizeRequest(
        source=source,
        out=Path(out),
        format=format or DEFAULT,
        format_named=format is not None,
        size=size,
        bpw=bpw,
        like=like,
        memory=memory,
        context=context,
        calibration=calibration,
        tokens=tokens,
        effort=effort,
        keep=keep,
        exclude=exclude,
        rules=rules or {},
        text=text,
        windows=windows,
        revision=revision,
        offline=offline,
    )
    resources = Context(threads=threads, device=device, progress=progress or Silent())
    if remark is not None:
        resources.on_message = remark
    return pipeline.run(request, resources)
