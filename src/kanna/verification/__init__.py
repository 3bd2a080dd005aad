"""The gate: an artefact is its source at its precision, in the real runtime, or it is not."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

from kanna import families, provenance, runtimes
from kanna._util.progress import Progress, Silent
from kanna.checks import Check, VerifyResult
from kanna.errors import FormatError, KannaError, MissingError, UsageError
from kanna.evaluation.reference import open_judged, open_reference, reference_gguf
from kanna.formats import gguf
from kanna.formats.onnx import encoder, files
from kanna.hardware.cpu import default_threads
from kanna.model import Model, Tensor
from kanna.runtimes import Runtime
from kanna.runtimes.llamacpp import RUNTIME as LLAMA
from kanna.sources import Source, open_source
from kanna.verification import independent, parity, tensors, tokens

__all__ = ["Check", "VerifyResult", "verify"]

INSTALL = 'pip install "kanna[onnx]"'
_RUNTIME_CHECKS = (
    "tokenizer",
    "chat template",
    "end of turn",
    "logits, short prompt",
    "logits, long prompt",
)


def verify(
    source: str | Path | Source,
    artefact: str | Path,
    *,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> VerifyResult:
    """Prove `artefact` (a GGUF, or a folder for another runtime) against the source it was made from.

    Checks: tensors present, tensor values, context (of an ONNX folder: that its files are whole and its own), tokenizer
    ids, chat template, end of turn, logits on a short and a long prompt. A check that cannot be made here has ok=None,
    and the result is `unprovable`. Raises SourceError for a source that cannot be read, UsageError for an artefact that
    does not exist; what is wrong with the artefact itself is a failed check.

    Args:
        source: What the artefact was made from.
        artefact: A GGUF file, or a folder.
        threads: Threads to use; None: one per physical core.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: nowhere.
    """
    begin = time.perf_counter()
    artefact, bar = Path(artefact), progress or Silent()
    if not artefact.exists():
        raise UsageError(
            f"{artefact} does not exist", expected="a .gguf file, or a folder that a runtime loads"
        )
    opened = open_source(source, revision=revision, offline=offline, progress=progress)
    if encoder.is_encoder(opened.config):
        from kanna.verification.embeddings import verify as verify_encoder

        return VerifyResult(
            source=opened.given,
            artefact=str(artefact),
            checks=verify_encoder(opened, artefact, threads),
            seconds=time.perf_counter() - begin,
        )
    model = families.load_model(opened)
    checks = _written(model, artefact, bar)
    if all(c.ok for c in checks):
        checks += _in_runtime(opened, model, artefact, threads, bar)
    return VerifyResult(
        source=opened.given,
        artefact=str(artefact),
        checks=checks,
        seconds=time.perf_counter() - begin,
    )


def _written(model: Model, artefact: Path, bar: Progress) -> list[Check]:
    """The checks that read the files alone."""
    try:
        if files.is_onnx(artefact):
            return [_whole(model, artefact)]
        found, metadata = _read(artefact)
    except KannaError as error:
        return [Check(name="file", ok=False, detail=str(error))]
    return [
        *tensors.check(model.tensors, found, bar, tuned=provenance.TUNING in metadata),
        _context(model, metadata),
    ]


def _whole(model: Model, artefact: Path) -> Check:
    """The files of an ONNX folder are there, long enough and inside it, and made for as long a context."""
    if importlib.util.find_spec("onnx") is None:
        return Check(name="files", ok=None, detail=f"onnx is not here: {INSTALL}")
    folder = files.read_folder(artefact)
    files.inside(artefact, "tokenizer.json")
    wanted, found = model.meta("{arch}.context_length"), folder.model.get("context_length")
    if found != wanted:
        return Check(name="files", ok=False, detail=f"a context of {found} tokens, not {wanted}")
    detail = f"{folder.graph.name} and {len(folder.data)} with its weights, all of them inside the folder"
    return Check(name="files", ok=True, detail=f"{detail}; context of {found} tokens")


def _read(artefact: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors under GGUF names, and metadata values."""
    if artefact.is_dir():
        back = families.load_model(open_source(artefact))
        return back.tensors, {k: v.value for k, v in back.metadata.items()} | provenance.of_folder(
            artefact
        )
    file = gguf.read(artefact)
    return file.tensors, {k: v.value for k, v in file.metadata.items()}


def _context(model: Model, metadata: dict[str, Any]) -> Check:
    """Architecture and every number the architecture is computed with are carried over."""
    keys = [
        k for k in model.metadata if k == "general.architecture" or k.startswith(f"{model.family}.")
    ]
    wrong = [
        f"{k} is {metadata.get(k, 'absent')}, not {model.metadata[k].value}"
        for k in keys
        if not _same(metadata.get(k), model.metadata[k].value)
    ]
    length = model.meta("{arch}.context_length")
    return Check(
        name="context and hyperparameters",
        ok=not wrong,
        detail="; ".join(wrong[:5]) or f"{len(keys)} keys equal; context of {length} tokens",
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= 1e-6 * max(1.0, abs(b))
    if isinstance(a, (str, bool, int, float, type(None))) or isinstance(
        b, (str, bool, int, float, type(None))
    ):
        return bool(a == b)
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _in_runtime(
    source: Source, model: Model, artefact: Path, threads: int | None, bar: Progress
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
            runnable = reference_gguf(artefact, progress=bar)
        with runtime.open(runnable, threads=threads, context=1024) as engine:
            checks = [
                tokens.check_tokenizer(source, model, engine),
                tokens.check_template(source, model, engine),
                tokens.check_stop(source, model, engine),
            ]
            work = parity.prompts(engine, model)
    except FormatError as error:
        return [Check(name=f"loads in {runtime.name}", ok=False, detail=error.found)]
    return checks + _parity(source, model, runtime, runnable, work, threads, bar)


def _parity(
    source: Source,
    model: Model,
    runtime: Runtime,
    runnable: Path,
    work: list[parity.Prompt],
    threads: int | None,
    bar: Progress,
) -> list[Check]:
    context = max(len(p.ids) for p in work)
    bar.start("verify logits", None, "prompts")
    try:
        reference, _ = open_reference(
            source, [runnable], context=context, threads=threads, progress=bar
        )
        judge, note = open_judged(runnable, threads=threads, context=context, progress=bar)
        with reference, judge as engine:
            bits = parity.bits_per_weight(runnable, model)
            rounded = files.is_onnx(runnable) and files.rounds_activations(
                files.read_folder(runnable)
            )
            checks = parity.check(
                reference, engine, work, bits, threads or default_threads(), rounded=rounded
            )
            if note:
                with runtime.open(runnable, threads=threads, context=context) as own:
                    checks.append(parity.same(engine, own, work[0], runtime.name))
        if runtime is not LLAMA:
            return checks
        # The context decides which rope factors llama.cpp takes; transformers goes by the length of
        # the text.
        with LLAMA.open(reference_gguf(source), threads=threads, context=256) as exact:
            return checks + independent.check(source, model, exact, work[0].ids)
    except MissingError as error:
        return [Check(name="logits", ok=None, detail=error.found)]
    except KannaError as error:
        return [Check(name="logits", ok=False, detail=error.found)]
    finally:
        bar.finish()
