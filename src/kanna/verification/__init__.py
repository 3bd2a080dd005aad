"""The gate: an artefact is its source at its precision, in the real runtime, or it is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kanna import families, formats, gate_report, offload, provenance, runtimes
from kanna._util.bars import shown
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna.adapters import AdapterWeights
from kanna.checks import Check, Retention, VerifyResult, verdict
from kanna.errors import FormatError, KannaError, NotFoundError, UsageError
from kanna.evaluation.reference import (
    open_for_scoring,
    open_reference,
    reference_gguf,
)
from kanna.formats.onnx import encoder
from kanna.formats.onnx import files as onnx_files
from kanna.formats.vectors import makes_vectors
from kanna.hardware.cpu import default_threads
from kanna.model import Model
from kanna.offload import choice
from kanna.offload import providers as placement
from kanna.runtimes import Engine, Runtime
from kanna.runtimes.llamacpp import RUNTIME as LLAMA
from kanna.runtimes.torch_engine import TorchEngine
from kanna.sources import Source, locate, open_source
from kanna.verification import adapted, independent, parity, tensors, tokens, towers, written
from kanna.verification.retention import LEAST
from kanna.verification.task_retention import TaskRetention

__all__ = ["Check", "VerifyResult", "verify"]

EngineCheck = Callable[[Source, Model, Engine], Check]
"""A check of an artefact that is open in its runtime, against its source."""

_ENGINE_CHECKS: tuple[EngineCheck, ...] = (
    tokens.check_tokenizer,
    tokens.check_template,
    tokens.check_stop,
)
_RUNTIME_CHECKS = (
    "tokenizer",
    "chat template",
    "end of turn",
    "logits, short prompt",
    "logits, long prompt",
)


def verify(
    source: str | Path | Source,
    artefact: str | Path | None = None,
    *,
    backend: str | None = None,
    provider: str | None = None,
    adapter: AdapterWeights | None = None,
    beside: str | Path | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    retention: float = LEAST,
    tasks: str | Sequence[str] = (),
    examples: int | None = None,
    gate: str | Path | None = None,
    mmproj: str | Path | None = None,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> VerifyResult:
    """Check `artefact` (a GGUF, or a folder of another runtime) against the source it was made of.

    Checks: tensors present, tensor values, context (of an ONNX folder: that its files are whole and
    its own), tokenizer ids, chat template, end of turn, logits on a short and a long prompt. A
    check that cannot be made here has ok=None, and the result is `unprovable`. Raises SourceError
    for a source that cannot be read, UsageError for a file that does not exist; a fault of the
    file itself is a failed check.

    With a backend, the file is run on its device and on the CPU: all layers, weights and operators
    must be there, and the logits agree. Raises MissingError where there is no such device. With a
    provider, the matrix products must be on it, as onnxruntime records it.

    Args:
        source: What the file was made from.
        artefact: A GGUF file or a folder, or any reference to one. Of an mmproj the tensors and
            the settings of pictures are checked, and that llama.cpp reads a picture with it. None,
            with a backend: `source` is the GGUF that is run on it, and held to no source.
        backend: Also run it on cuda, vulkan, metal, opencl, sycl or rocm.
        provider: Also run it on an execution provider of onnxruntime, such as qnn or openvino;
            where that is not here, hold it to what is published of it.
        adapter: Adapters that were merged into the source: what was made of both is checked, and
            how much of their gain it keeps. The file may be one of them alone, in GGUF.
        beside: With an adapter alone: the file of the base that it will lie beside, such as a
            quantized one; None: the base as it is.
        data: Held-out examples to measure that by; None: those beside the adapter.
        retention: Least share of the gain that must be kept.
        tasks: With an adapter: tasks of `evaluate` that base, tuned model and file are asked; that
            share of what the fine-tune gained on each must be kept, too.
        examples: Questions of each task at most; None: each task's own number.
        gate: A file to write the checks to, with the hashes of the files: `kanna.push` asks for it.
        mmproj: The vision tower beside the file, which is checked too, with it.
        threads: Threads to use; None: one per physical core.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
    """
    begin = time.perf_counter()
    gain: Retention | None = None
    kept: Sequence[TaskRetention] = ()
    progress, chosen = shown(progress), adapted.chosen_tasks(tasks, examples)
    if adapter is None:
        adapted.refuse_without(data, beside, chosen)
    if artefact is None:
        return _on_device_alone(source, backend, threads=threads, offline=offline, bar=progress)
    artefact = locate(artefact, offline=offline, check=False, progress=progress)
    if not artefact.exists():
        raise NotFoundError(
            absent(artefact), expected="a .gguf file, or a folder that a runtime loads"
        )
    choice.check(backend, provider, [artefact])
    opened = open_source(source, revision=revision, offline=offline, progress=progress)
    if encoder.is_encoder(opened.config) and onnx_files.is_onnx(artefact):
        from kanna.verification.embeddings import verify as verify_encoder

        checks = verify_encoder(opened, artefact, threads)
    elif adapter is not None:
        case = adapted.AdaptedCase(
            base=opened,
            adapter=adapter,
            artefact=artefact,
            beside=beside,
            data=data,
            tasks=chosen,
            least=retention,
            threads=threads,
            offline=offline,
        )
        hold = partial(_checks, artefact=artefact, threads=threads, progress=progress)
        checks, gain, kept = adapted.judge(case, hold, progress)
    else:
        checks = _checks(opened, artefact, threads, progress)
        checks += written.unnamed_adapter(artefact, checks)
    proof = _on_device(artefact, backend, provider, threads=threads, progress=progress)
    if proof is not None:
        checks = checks + proof.checks
    if mmproj is not None:
        tower = locate(mmproj, offline=offline, check=False, progress=progress)
        checks = checks + towers.pair_checks(
            opened, artefact, tower, threads or default_threads(), progress
        )
    result = VerifyResult(
        source=opened.given,
        artefact=str(artefact),
        checks=checks,
        seconds=time.perf_counter() - begin,
        retention=gain,
        tasks=[asdict(one) for one in kept],
        offload=proof.to_dict() if proof else None,
    )
    if gate is not None:
        gate_report.write(result, Path(gate))
    return result


def _on_device(
    artefact: Path, backend: str | None, provider: str | None, **options: Any
) -> offload.OffloadProof | placement.PlacementProof | None:
    """What running it on a device comes to, where one is named; `options` are those of `prove`."""
    if provider is not None:
        return placement.prove(artefact, provider, **options)
    return offload.prove(artefact, backend, **options) if backend else None


def _on_device_alone(
    given: str | Path | Source,
    backend: str | None,
    *,
    threads: int | None,
    offline: bool,
    bar: Progress,
) -> VerifyResult:
    """The checks of a file on a device, without a source that it would be held to."""
    begin = time.perf_counter()
    if backend is None or isinstance(given, Source):
        raise UsageError(
            "one model was named",
            expected="the model and the file that was made of it, or --backend",
        )
    path = locate(given, offline=offline, check=False, progress=bar)
    proof = offload.prove(path, backend, threads=threads, progress=bar)
    return VerifyResult(
        source=str(given),
        artefact=str(path),
        checks=proof.checks,
        seconds=time.perf_counter() - begin,
        offload=proof.to_dict(),
    )


def _checks(source: Source, artefact: Path, threads: int | None, progress: Progress) -> list[Check]:
    """Every check of an artefact against its source."""
    if towers.is_mmproj(artefact):
        return towers.check(source, artefact, threads or default_threads(), progress)
    model = families.load_model(source)
    checks = _check_files(model, artefact, progress)
    if all(c.ok for c in checks):
        checks += _check_in_runtime(source, model, artefact, threads, progress)
    return checks


def _check_files(model: Model, artefact: Path, progress: Progress) -> list[Check]:
    """The checks that read the files alone."""
    try:
        formats.check_inside(artefact)
        format = formats.recognize(artefact)
        if format is not None and format.check_files is not None:
            return [format.check_files(artefact, model.meta("{arch}.context_length"))]
        lying, metadata = written.read(artefact)
        beside = [format.check_beside(artefact)] if format and format.check_beside else []
    except KannaError as error:
        detail = "; ".join(str(error).splitlines())
        return [Check(name="file", ok=verdict(error), detail=detail)]
    return [
        *tensors.check(model.tensors, lying, progress, tuned=provenance.TUNING in metadata),
        _context(model, metadata),
        *beside,
    ]


def _context(model: Model, metadata: dict[str, Any]) -> Check:
    """Architecture and every number the architecture is computed with are carried over."""
    keys = [
        k for k in model.metadata if k == "general.architecture" or k.startswith(f"{model.family}.")
    ]
    differing = [
        f"{k} is {metadata.get(k, 'absent')}, not {model.metadata[k].value}"
        for k in keys
        if not _same(metadata.get(k), model.metadata[k].value)
    ]
    length = model.meta("{arch}.context_length")
    return Check(
        name="context and hyperparameters",
        ok=not differing,
        detail="; ".join(differing[:5]) or f"{len(keys)} keys equal; context of {length} tokens",
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= 1e-6 * max(1.0, abs(b))
    if isinstance(a, (str, bool, int, float, type(None))) or isinstance(
        b, (str, bool, int, float, type(None))
    ):
        return bool(a == b)
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _check_in_runtime(
    source: Source, model: Model, artefact: Path, threads: int | None, progress: Progress
) -> list[Check]:
    """The checks that need the artefact's runtime."""
    runtime = runtimes.of(artefact)
    if runtime.is_reference:
        # A Hugging Face folder runs as the float32 GGUF that it makes: what is proved is its
        # weights and tokenizer.
        runtime = LLAMA
    here = runtime.available()
    if not here.ok:
        why = f"{here.remark}: {here.how_to_install}"
        return [Check(name=name, ok=None, detail=why) for name in _RUNTIME_CHECKS]
    try:
        runnable = artefact
        if artefact.is_dir() and runtime is LLAMA:
            runnable = reference_gguf(artefact, progress=progress)
        if makes_vectors(model) and runtime is LLAMA:
            from kanna.verification.vectors import check as check_vectors

            return check_vectors(source, model, runnable, threads)
        with runtime.open(runnable, threads=threads, context=1024) as engine:
            checks = [check(source, model, engine) for check in _ENGINE_CHECKS]
            prompts = parity.prompts(engine, model)
    except FormatError as error:
        return [Check(name=f"loads in {runtime.name}", ok=verdict(error), detail=error.found)]
    case = _ParityCase(
        source=source,
        model=model,
        runtime=runtime,
        artefact=runnable,
        prompts=prompts,
        threads=threads,
    )
    return checks + _parity(case, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParityCase:
    """What is compared: an artefact that `runtime` opens, on some prompts."""

    source: Source
    model: Model
    runtime: Runtime
    artefact: Path
    prompts: list[parity.Prompt]
    threads: int | None


def _parity(case: _ParityCase, progress: Progress) -> list[Check]:
    """Logits against the reference, and the reference against an independent implementation."""
    context, threads = max(len(p.ids) for p in case.prompts), case.threads
    progress.start("verify logits", None, "prompts")
    try:
        reference, _ = open_reference(
            case.source, [case.artefact], context=context, threads=threads, progress=progress
        )
        scored, note = open_for_scoring(
            case.artefact, threads=threads, context=context, progress=progress
        )
        with reference, scored as engine:
            stored = parity.stored_weights(case.artefact)
            precision = parity.Precision(
                bits=parity.decisive_bits(case.artefact, case.model),
                whole=parity.whole_bits(case.artefact, case.model),
                activations=stored.activation_bits,
                inputs=stored.rounded_inputs,
            )
            checks = parity.check(
                reference, engine, case.prompts, precision, threads=threads or default_threads()
            )
            if stored.half_activations and isinstance(reference, TorchEngine):
                checks.append(parity.half_activations(reference, case.prompts[0]))
            if note:
                with case.runtime.open(case.artefact, threads=threads, context=context) as own:
                    checks.append(parity.same(engine, own, case.prompts[0], case.runtime.name))
        return checks + independent.check(case.source, reference.path, threads)
    except KannaError as error:
        return [Check(name="logits", ok=verdict(error), detail=error.found)]
    finally:
        progress.finish()
