"""Training: an adapter of a model from a user's own chats or texts, by PEFT and TRL.

kanna writes no trainer: what comes before (data, held-out split, template) and after is here.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kanna import families, tracking
from kanna._util import extras
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna.benchmark import OWN_HEAD
from kanna.errors import UsageError
from kanna.evaluation.reference import reference_folder
from kanna.formats import safetensors
from kanna.hardware.cpu import default_threads
from kanna.sources import Source, open_source
from kanna.tracking import TrackRequest
from kanna.training import aware, objectives, splitting
from kanna.training.drafts.phase import DraftPhase
from kanna.training.examples import HELD_OUT
from kanna.training.gate_file import GateFile
from kanna.training.job import REPORT, AdapterJob
from kanna.training.planned_values import StoredTypes
from kanna.training.result import AdaptResult
from kanna.training.settings import METHODS, MLX, TORCH, TrainingSettings
from kanna.training.teacher import TeacherModel

__all__ = ["HELD_OUT", "METHODS", "REPORT", "AdaptResult", "TrainingSettings", "adapt"]

EXTRA = "adapt"


def adapt(
    source: str | Path | Source,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    objective: str = objectives.DEFAULT,
    method: str = "lora",
    rank: int = 16,
    alpha: float | None = None,
    learning_rate: float | None = None,
    auto: bool = False,
    teacher: str | Path | Source | None = None,
    beta: float = 0.1,
    epochs: float = 3.0,
    steps: int | None = None,
    minutes: float = 8.0,
    batch: int = 4,
    max_length: int = 1024,
    seed: int = 0,
    samples: int = 2,
    base_bits: int | None = None,
    for_plan: str | Path | None = None,
    verify: bool = True,
    draft: str | Path | Source | None = None,
    retrain_draft: bool = False,
    backend: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    offline: bool = False,
    track: str | None = None,
    experiment: str | None = None,
    track_weights: bool = False,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> AdaptResult:
    """Train an adapter of `source` on your own chats or texts, with PEFT and TRL.

    A tenth of the examples is held out first; training stops where their loss falls no more, and
    the best state is what is written, in one step: adapter, report.json and held-out.jsonl. A run
    that was killed goes on from its last checkpoint, and comes to the same weights.

    Args:
        source: The base model.
        data: .jsonl files of chats (`messages`, with `tools`), of `prompt` and `completion` or of
            `text`, text files, or folders of them; for `dpo` and `orpo`, .jsonl files of
            pairs: `prompt`, `chosen` and `rejected`.
        out: The folder to write.
        objective: `sft`, answers are learned as they are; `dpo` or `orpo`, of two answers the
            chosen one is preferred.
        method: `lora`, `rslora` or `dora`.
        rank: Rank of the changes.
        alpha: Their strength; None: twice the rank.
        learning_rate: Of AdamW, after a short warm-up; None: by the objective, 5e-4 of `sft`, 5e-5
            of `dpo`, 1e-4 of `orpo`.
        auto: Find the learning rate by a short test first, on the data itself.
        teacher: A larger model of the same vocabulary on this machine: half of the loss is the
            divergence from what it says of the answers' tokens.
        beta: How much a preference weighs, of `dpo` and `orpo`.
        epochs: How often all examples are read at most.
        steps: Steps at most; None: by the epochs.
        minutes: Minutes of training at most.
        batch: Examples of one step.
        max_length: Tokens of an example at most; what is longer is cut, and counted.
        seed: Of the split, the order and the first values.
        samples: Held-out prompts that base and tuned model answer for the page.
        base_bits: Hold the base in `4` or `8` bits, decoded as it is used, on the CPU; None: as
            floats.
        for_plan: A preset of GGUF, or a plan file: training goes on with the values that it stores,
            and the adapter is kept whose file loses less in llama.cpp.
        verify: Read the adapter again, merge it into a GGUF in 16 bits, or by `for_plan`, and hold
            that file in llama.cpp to what was measured in training; where llama.cpp is not
            installed, the result says what was not checked.
        draft: `mtp` for the model's own head for further tokens, or a small model of the same
            vocabulary: how many of its guesses the model takes on held-out text is counted, before
            and after.
        retrain_draft: Train the head on with the tuned model at rest, and keep it where more of its
            guesses are taken.
        backend: `torch`, by PEFT and TRL, or `mlx`, by mlx-lm (extra `mlx`); None: mlx on Apple
            silicon where it is installed and does what is asked for, else torch.
        device: `cpu`, `cuda` or `mps`; None: an accelerator when there is one.
        threads: Threads to use; None: one per physical core.
        overwrite: Replace what is at `out`.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        track: A tracker, such as http://127.0.0.1:5000, sqlite:///runs.db or trackio, that is told
            of the run (extras `mlflow`, `trackio`); None: nobody is.
        experiment: Where the run belongs there; None: kanna.
        track_weights: Send the weights, too, not only their hash and path.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
        remark: Is told when the tracking server is lost.

    Raises:
        MissingError: The extra `adapt` is not installed.
        UsageError: The data cannot be used; names file and line.
        KannaError: The loss was no number before anything improved.
        SourceError: The tracking server does not answer.
    """
    begin, progress, out = time.perf_counter(), shown(progress), Path(out)
    _refuse_both(auto=auto, learning_rate=learning_rate, base_bits=base_bits, device=device)
    _refuse_sizes(samples, max_length)
    _refuse_retraining(draft, retrain_draft)
    _refuse_for(for_plan, objective=objective, method=method, base_bits=base_bits)
    objective = _with_teacher(objective, teacher is not None)
    chosen = objectives.get(objective)
    settings = TrainingSettings(
        objective=objective,
        method=method,
        rank=rank,
        alpha=alpha,
        learning_rate=chosen.learning_rate if learning_rate is None else learning_rate,
        auto=auto,
        beta=beta,
        epochs=epochs,
        steps=steps,
        minutes=minutes,
        batch=batch,
        seed=seed,
        base_bits=base_bits,
    )
    of_torch = {"teacher": teacher, "for_plan": for_plan, "device": device, "draft": draft}
    read = chosen.read(data)
    parts = splitting.split(read.examples, seed)
    settings = _with_backend(backend, settings, of_torch)
    safetensors.check_folder(out, overwrite=overwrite, needed=1 << 20)
    asked = {"source": getattr(source, "given", source), "max_length": max_length}
    with tracking.following(
        TrackRequest(server=track, experiment=experiment, weights=track_weights),
        "adapt",
        out.name,
        unsent=out.with_name(f"{out.name}.untracked.jsonl"),
        parameters=asked | asdict(settings),
        remark=remark,
    ) as tracked:
        opened = open_source(
            source, revision=revision, offline=offline, preflight=_preflight, progress=progress
        )
        _preflight(opened)
        types = StoredTypes.of(opened, str(for_plan)) if for_plan is not None else None
        settings = replace(settings, device=_device(device, settings))
        folder = reference_folder(opened, offline=offline, progress=progress)
        gate = GateFile(source=opened, folder=folder, method=method, types=types)
        job = AdapterJob(
            source=opened,
            folder=folder,
            read=read,
            split=parts,
            settings=settings,
            max_length=max_length,
            samples=samples,
            threads=threads or default_threads(),
            tracked=tracked,
            teacher=_teacher(teacher, settings, offline=offline, progress=progress),
            types=types,
            gate_file=gate if verify else None,
            draft=_drafts(draft, retrain_draft, folder, settings, offline, progress),
        )
        return job.run(out, begin, progress)


def _with_backend(
    given: str | None, settings: TrainingSettings, of_torch: dict[str, Any]
) -> TrainingSettings:
    """The settings with who trains, who must be installed."""
    backend = _backend(given, settings, **of_torch)
    extras.require(MLX if backend == MLX else EXTRA, "training")
    return replace(settings, backend=backend)


def _backend(given: str | None, settings: TrainingSettings, **more: Any) -> str:
    """Who trains; UsageError where mlx is named and cannot do what is asked for.

    Args:
        given: As it was asked for.
        settings: What it must be able to do.
        **more: Options that mlx-lm's trainer has not, None where they are not given.
    """
    asked = {f"--{name.removesuffix('_plan')}": value is not None for name, value in more.items()}
    asked |= {
        "--objective": settings.objective != objectives.DEFAULT,
        "--auto": settings.auto,
        "--base-bits": settings.base_bits is not None,
    }
    of_torch = [option for option, is_asked in asked.items() if is_asked]
    if given == MLX and of_torch:
        raise UsageError(
            f"--backend mlx with {of_torch[0]}",
            expected="answers as they are, the base as it is",
            todo="leave one of them out",
        )
    if given is not None:
        return given
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return MLX if apple and find_spec("mlx_lm") is not None and not of_torch else TORCH


def _refuse_both(
    *, auto: bool, learning_rate: float | None, base_bits: int | None, device: str | None
) -> None:
    """Raise UsageError for options that contradict each other."""
    if auto and learning_rate is not None:
        raise UsageError(
            "--auto finds the learning rate, and --learning-rate names one",
            todo="leave one of them out",
        )
    if base_bits is not None and device not in (None, "cpu"):
        raise UsageError(
            f"--base-bits decodes on the CPU, and --device is {device}",
            expected="cpu",
            todo="leave one of them out",
        )


def _refuse_for(
    plan: str | Path | None, *, objective: str, method: str, base_bits: int | None
) -> None:
    """Raise for what training with the values of a plan does not go with."""
    if plan is None:
        return
    reason, expected = "", ""
    if objective in objectives.PAIRS:
        reason, expected = f"--objective {objective}", "answers as they are"
    elif method == "dora":
        reason, expected = "--method dora, whose changes are no sum", "lora or rslora"
    elif base_bits is not None:
        reason, expected = "--base-bits, which stores other values", "the base as floats"
    if reason:
        raise UsageError(f"--for with {reason}", expected=expected, todo="leave one of them out")
    aware.require_runtime()


def _refuse_sizes(samples: int, max_length: int) -> None:
    if not 0 <= samples <= 64:
        raise UsageError(f"--samples is {samples}", expected="0 to 64")
    if max_length < 8:
        raise UsageError(f"--max-length is {max_length}", expected="8 or more")


def _with_teacher(objective: str, taught: bool) -> str:
    """The objective, which a teacher makes `distill` of."""
    if not taught and objective == objectives.DISTILL:
        raise UsageError(f"the objective {objective} without a teacher", expected="--teacher MODEL")
    if taught and objective in objectives.PAIRS:
        raise UsageError(
            f"--teacher with --objective {objective}, which learns from pairs",
            expected="answers as they are: leave --objective out",
        )
    return objectives.DISTILL if taught else objective


def _teacher(
    given: str | Path | Source | None,
    settings: TrainingSettings,
    *,
    offline: bool,
    progress: Progress,
) -> TeacherModel | None:
    if given is None:
        return None
    opened = open_source(given, offline=offline, progress=progress)
    return TeacherModel(source=opened, device=settings.device)


def _drafts(
    given: str | Path | Source | None,
    retrains: bool,
    folder: Path,
    settings: TrainingSettings,
    offline: bool,
    progress: Progress,
) -> DraftPhase | None:
    if given is None:
        return None
    return DraftPhase.of(given, folder, settings, retrains=retrains, offline=offline, tell=progress)


def _refuse_retraining(draft: str | Path | Source | None, retrains: bool) -> None:
    """Raise UsageError where a head is to be trained on, and there is none."""
    if not retrains:
        return
    if draft is None:
        raise UsageError("--retrain-draft without --draft", expected=f"--draft {OWN_HEAD}")
    if draft != OWN_HEAD:
        raise UsageError(
            "--retrain-draft with a draft model",
            expected=f"--draft {OWN_HEAD}, a model's own head",
            todo="a draft model learns from the tuned one as any model from a teacher: kanna merge "
            "SRC ADAPTER -o tuned/, then kanna adapt DRAFT --data FILE --teacher tuned/ -o draft/",
        )


def _preflight(source: Source) -> None:
    """Refuse a model whose adapter no runtime could use."""
    families.require_runtime(source.config)


def _device(given: str | None, settings: TrainingSettings) -> str:
    if settings.base_bits or settings.backend == MLX:
        return "cpu"
    import torch

    here = ["cpu"]
    here += ["cuda"] if torch.cuda.is_available() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if given is not None and given not in here:
        raise UsageError(f"no device {given!r} here", expected=", ".join(here))
    return given or here[-1]
