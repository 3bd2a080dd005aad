"""Optimize: the artefact closest to the source that a stock runtime loads within a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kanna import conversion, formats
from kanna._util import extras
from kanna._util.arguments import names, several
from kanna._util.bars import shown
from kanna._util.locks import holding
from kanna._util.progress import Progress
from kanna._util.units import Size, optional_size, parse_duration
from kanna.adapters import AdapterWeights, weights
from kanna.calibration import TOKENS
from kanna.calibration.devices import check_device, torch_threads
from kanna.errors import UsageError
from kanna.executors.parts import PartsPlace, Settings
from kanna.hardware import device_speeds
from kanna.optimization import adapters, pipeline
from kanna.optimization.context import Context
from kanna.optimization.dry_run import dry_run as forecast_only
from kanna.optimization.request import EFFORTS, Effort, OptimizeRequest
from kanna.optimization.result import OptimizeResult
from kanna.optimization.stages import STAGES, Stage
from kanna.optimization.tracked import follow, note_result
from kanna.tracking import TrackRequest
from kanna.verification.retention import LEAST

__all__ = ["EFFORTS", "EXTRA", "STAGES", "Effort", "OptimizeResult", "Stage", "optimize"]

EXTRA = "torch"


def optimize(
    source: str | Path,
    out: str | Path,
    *,
    adapter: AdapterWeights | None = None,
    apart: bool = False,
    data: str | Path | Sequence[str | Path] | None = None,
    retention: float = LEAST,
    recover: bool = False,
    guard: str | Sequence[str] | None = None,
    examples: int | None = None,
    size_max: Size | None = None,
    size: Size | None = None,
    bpw: float | None = None,
    like: str | None = None,
    memory: Size | None = None,
    context: int | None = None,
    min_speed: float | None = None,
    objective: str = "quality",
    speeds: str | Path | None = None,
    target: str | None = None,
    provider: str | None = None,
    static: str | None = None,
    calibration: str | Path | Sequence[str | Path] | None = None,
    tokens: int | None = None,
    effort: str | None = None,
    time_budget: float | str | None = None,
    keep: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    rules: Mapping[str, str] | str | Sequence[str] | None = None,
    text: str | Path | None = None,
    windows: int | None = None,
    device: str | None = None,
    on: str | None = None,
    on_set: Settings = None,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    format: str | None = None,
    track: str | None = None,
    experiment: str | None = None,
    track_weights: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> OptimizeResult:
    """Search the best plan within a budget, write it, prove it and report it in the folder `out`.

    Exactly one of size, bpw, like and memory is given; a target alone means its memory.
    The result of every stage is a file: an interrupted run goes on, and another budget for the same
    source needs no calibration.

    Args:
        source: What is converted.
        out: The folder for the file, its statistics and the report.
        adapter: A folder that PEFT or mlx-lm saved, `folder=0.5` with a weight, or several: they
            are merged into the source while it is read, and the file must keep what they
            gained.
        apart: Do not merge them: the source is calibrated without and with each of them, each is
            written beside the file in its format, and must keep its gain there. GGUF alone.
        data: Held-out examples that this is measured by; None: those beside the adapter.
        retention: Least share of the gain that must be kept.
        recover: Tune scales, biases and norms on the text of `calibration`, which is of the domain,
            at any effort, and keep the tuned file where its loss on held-out text of the domain
            falls in the runtime, and no less is kept of an adapter's gain.
        guard: Tasks of `evaluate` that the file must not lose, `maths:0.05` with the share that
            may be lost, or several: a sure loss beyond it fails the file. Where every file within
            the budget fails, larger ones are tried, and the smallest that holds is the one to use.
        examples: Questions of each of them at most; None: each task's own number.
        size_max: Bytes of the largest file that a guard may ask for; None: 8 bits for every matrix;
            with `memory`, never more than it leaves.
        size: Bytes of the file, or a text such as 95MB.
        bpw: Bits per weight of the whole file.
        like: A preset, whose size is the budget.
        memory: Bytes that weights, cache and buffers may take in llama.cpp; the encoding of the
            cache is chosen, too.
        context: Tokens of that cache; None: those of the target, else 4096.
        min_speed: Tokens per second that the file must be predicted to generate.
        objective: `quality`: least divergence; `speed`: as fast as can be while the file is
            predicted no farther than the plain preset within the budget; `balanced`: half of that
            gain of time.
        speeds: A file of costs of encodings, as `bench` exports them; None: those of the target,
            or of this machine.
        target: A device and its backend, such as jetson-orin-nano or snapdragon-8-elite:hexagon:
            only encodings that it multiplies are used, for weights and cache.
        provider: An execution provider of onnxruntime, with `format` onnx: only encodings that it
            multiplies are used.
        static: CHUNKxCONTEXT, such as 64x1024, with `format` onnx: graphs of fixed shapes for NPUs,
            whose matrices have codes of 4 or 8 bits with a scale per channel.
        calibration: Texts to calibrate on, as for `calibrate`; with an adapter as for `adapt`,
            and held-out examples among them are left out.
        tokens: To calibrate on; None: 24,576, or what a time budget leaves.
        effort: `fast` trusts predictions; `balanced` corrects them by measuring every kind of
            tensor in the runtime; `max` then tries swaps of encodings there until none gains and
            chooses values again behind quantized layers, kept where no kind of text loses (both
            GGUF alone), and tunes scales and norms. None: `balanced`, or the most that a time
            budget has room for.
        time_budget: Time that all stages may take, such as 2h, or seconds: how far the search goes
            and how much text is read is chosen by it, where it is not named.
        keep: Patterns of tensors that stay at 16 bits.
        exclude: Encodings not to be used.
        rules: Pattern → encoding, or texts such as `ffn_down=q6_k`.
        text: What the result is evaluated on; None: the WikiText-2 test set.
        windows: Of 512 tokens to evaluate; None: as `evaluate` does.
        device: `cpu`, `cuda` or `mps`, where to calibrate, measure, correct and tune; values are
            chosen there, too, where it is named. None: an accelerator when there is one.
        on: The executor whose machines measure encodings and, of a GGUF, choose values, a layer at
            a time, such as `ray`; None: this one.
        on_set: Options of the executor, as a mapping or as texts such as `address=HOST:6379`.
        threads: None: one per physical core.
        revision: Branch, tag or commit of a hub id.
        offline: Use only what is on this machine already.
        format: `gguf` (the default), `onnx`, whose budget counts every file of the folder, or
            `mlx`, whose budget counts the weight files.
        track: A tracker, such as http://127.0.0.1:5000, sqlite:///runs.db or trackio, that is told
            of the run (extras `mlflow`, `trackio`); None: nobody is.
        experiment: Where the run belongs there; None: kanna.
        track_weights: Send the weights, too, not only their hash and path.
        dry_run: Only say what every stage would take here: time, memory and disk. Headers are all
            that is read, and nothing is written.
        progress: Where to report.
        remark: Is given one line when a stage has ended.

    Raises:
        UsageError: The request contradicts itself or the source.
        SourceError: An adapter does not fit the source.
        PlanError: The budget is below the smallest file; it names the feasible range.
        MissingError: torch or the runtime is not installed.
        SourceError: The tracking server does not answer.
    """
    _check_format(format)
    chosen = device_speeds.choose_for(target, format or formats.DEFAULT)
    limit = optional_size(memory)
    if chosen is not None and all(one is None for one in (size, bpw, like, limit)):
        limit = chosen.memory
    request = OptimizeRequest(
        source=source,
        out=Path(out),
        format=format or formats.DEFAULT,
        format_named=format is not None,
        adapter=weights(adapter) if adapter is not None else (),
        apart=apart,
        data=several(data) or None,
        retention=retention,
        recover=recover,
        guard=names(guard),
        examples=examples,
        size_max=optional_size(size_max),
        size=optional_size(size),
        bpw=bpw,
        like=like,
        memory=limit,
        context=context if context is not None else chosen.context if chosen else 4096,
        min_speed=min_speed,
        objective=objective,
        speeds=speeds,
        target=target,
        chosen_target=chosen,
        provider=provider,
        static=static,
        calibration=several(calibration) or None,
        tokens=TOKENS if tokens is None else tokens,
        effort=effort or "balanced",
        time_budget=None if time_budget is None else parse_duration(time_budget),
        named=_named(effort=effort, tokens=tokens, windows=windows),
        keep=several(keep),
        exclude=names(exclude),
        rules=_rules(rules),
        text=text,
        windows=windows,
        revision=revision,
        offline=offline,
    )
    check_device(device)
    place = _place(request, on, on_set)
    resources = Context(threads=threads, device=device, place=place, progress=shown(progress))
    if remark is not None:
        resources.on_message = remark
    if dry_run:
        return forecast_only(request, resources)
    if not request.out.exists():  # the stages of an earlier run may be all that is needed
        extras.require("torch", "calibration", ("torch", "transformers"))
        conversion.require_installed([request.format])
    server = TrackRequest(server=track, experiment=experiment, weights=track_weights)
    with holding(request.out, "optimize", parents=True), follow(request, server, remark) as tracked:
        result = _run(request, resources)
        note_result(tracked, result)
        return result


def _check_format(name: str | None) -> None:
    """Raise UsageError for a format that is not searched."""
    if name is not None and name not in adapters.names():
        raise UsageError(f"--format {name} is not searched", expected=" or ".join(adapters.names()))


def _run(request: OptimizeRequest, context: Context) -> OptimizeResult:
    """Every stage, torch on no more threads than all else."""
    with torch_threads(context.threads):
        return pipeline.run(request, context)


def _place(request: OptimizeRequest, on: str | None, on_set: Settings) -> PartsPlace | None:
    """Where layers are worked on; None: here."""
    if on is None:
        if on_set:
            raise UsageError("--on-set was given, and no executor", expected="--on")
        return None
    if request.adapter and not request.apart:
        raise UsageError(
            f"--on {on} sends the files of a model, and adapters are merged while it is read",
            expected="a merged model",
            todo=f"kanna merge {request.source} {request.adapter[0][0]} -o merged/, and name that",
        )
    return PartsPlace(on=on, on_set=on_set)


def _named(**options: object) -> tuple[str, ...]:
    """Names of the options that are given."""
    return tuple(name for name, value in options.items() if value is not None)


def _rules(rules: Mapping[str, str] | str | Sequence[str] | None) -> dict[str, str]:
    """What some tensors must get, as the command line has it or as a mapping."""
    if isinstance(rules, Mapping):
        return dict(rules)
    parsed: dict[str, str] = {}
    for text in several(rules):
        pattern, equal, encoding = text.rpartition("=")
        if not equal:
            raise UsageError(
                f"the rule {text!r}", expected="PATTERN=ENCODING, such as ffn_down=q6_k"
            )
        parsed[pattern] = encoding
    return parsed
