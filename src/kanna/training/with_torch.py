"""What PEFT and TRL train, with what is counted and measured around it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress, remark
from kanna.conversion import WriteOptions
from kanna.runtimes import torch_engine
from kanna.sources import open_source
from kanna.training import (
    causal_model,
    examination,
    full_model,
    loop,
    memory,
    objectives,
    packed_attention,
    packing,
    quantized_base,
    trained_weights,
    written,
)
from kanna.training.aware import AwareOutcome, AwarePhase
from kanna.training.examination import Examination
from kanna.training.examples import Example
from kanna.training.held_answers import calling_prompts
from kanna.training.job import AdapterJob, Learning, Trained
from kanna.training.planned_values import StoredTypes
from kanna.training.settings import FULL
from kanna.training.tokens import ChatTokenizer


def learn(job: AdapterJob, task: Learning) -> Trained:
    """Train, and write the adapter, or the model where all of it was trained.

    Args:
        job: The run.
        task: What it learns, and where it is written.
    """
    import torch

    torch.set_num_threads(job.threads)
    torch.manual_seed(job.settings.seed)
    model = _model(job, task.progress)
    longest = min(task.chats.most, max(task.chats.lengths))
    step, predicted = memory.fitting(model, job.settings, longest, task.progress)
    trained = trained_weights.of(job.settings, job.folder)
    before = None
    if not trained.beside:  # training leaves nothing of the base
        model.to(job.settings.device)
        before = examination.of(model, task.chats, _asked(job))
    packed = _packing(job, task, model)
    training = loop.TrainingTask(
        model=model,
        tokenizer=task.tokenizer,
        training=task.training,
        held_out=task.held_out,
        settings=job.settings,
        step=step,
        checkpoints=task.checkpoints,
        progress=task.progress,
        tracked=job.tracked,
        trained=trained,
        row_length=task.chats.most if packed and packed.used else None,
    )
    adapted, run = loop.train(training)
    outcome = None
    if job.types is not None:
        adapted, outcome = _aware(job, training, adapted, run, job.types)
    changed = _examine(job, adapted, task.chats, run, before)
    changed["costs"]["predicted_bytes"] = predicted
    changed["aware"] = outcome.to_dict() if outcome else {}
    changed["packing"] = packed.to_dict() if packed else {}
    calls, wanted = None, _wanted(job)
    if job.gate_file and (prompts := calling_prompts(wanted, task.chats)):
        calls = examination.valid_calls(adapted, task.chats, prompts)
    save = partial(_save, job, adapted)
    if not trained.beside:
        save = partial(_save_all, job, adapted, task.checkpoints.folder / "trained")
    written.adapter(job, save, task.folder)
    if job.draft is not None:
        changed["draft"] = job.draft.run(adapted, training, task.folder).to_dict()
    return Trained(run=run, changed=changed, calls=calls)


def _model(job: AdapterJob, progress: Progress) -> Any:
    """The base, as floats or in few bits."""
    if (bits := job.settings.base_bits) is None:
        exact = job.settings.method == FULL
        return causal_model.load(job.folder, job.settings.device, exact=exact)
    memory.give_back_at_once()
    with causal_model.loading(job.folder):
        return quantized_base.load(job.folder, bits, job.threads, progress)


def _packing(job: AdapterJob, task: Learning, model: Any) -> packing.PackingChoice | None:
    """Whether examples share rows, told where the model cannot keep them apart."""
    choice = packing.choose(
        job.settings.packing,
        task.padding,
        lambda: packed_attention.refusal(model, task.training),
    )
    if choice and choice.refusal:
        remark(task.progress, f"Examples are padded, not packed: {choice.refusal}.")
    return choice


def _aware(
    job: AdapterJob,
    task: loop.TrainingTask,
    adapted: Any,
    run: loop.TrainingRun,
    types: StoredTypes,
) -> tuple[Any, AwareOutcome]:
    """Train on with the values that a plan stores."""
    key = json.dumps([types.name, sorted(types.encodings.items())])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    phase = AwarePhase(
        source=job.source,
        types=types,
        save=partial(_save, job),
        threads=job.threads,
        progress=task.progress,
    )
    return phase.run(task, adapted, run, task.checkpoints.phase(f"aware-{digest}"))


def _save(job: AdapterJob, adapted: Any, folder: Path) -> None:
    """Write an adapter as PEFT does."""
    adapted.peft_config["default"].base_model_name_or_path = job.source.given
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's form, with nothing filled in


def _save_all(job: AdapterJob, model: Any, scratch: Path, folder: Path) -> None:
    """Write a model of which all weights were trained."""
    import transformers

    options = WriteOptions(threads=job.threads)
    with torch_engine.quiet(transformers):
        model.save_pretrained(str(scratch))
    full_model.write(open_source(job.folder), scratch, folder, options)


def _wanted(job: AdapterJob) -> list[Example]:
    """The answers that were held out."""
    return objectives.get(job.settings.objective).wanted(job.split.held_out)


def _asked(job: AdapterJob) -> list[Example]:
    """Those whose prompts are answered for the page."""
    return _wanted(job)[: job.samples]


def _examine(
    job: AdapterJob,
    adapted: Any,
    chats: ChatTokenizer,
    run: loop.TrainingRun,
    before: Examination | None,
) -> dict[str, Any]:
    """What was changed, and what it cost; `before` is None where the base lies beneath."""
    peak, asked = memory.peak_bytes(job.settings.device), _asked(job)
    if before is None:
        with adapted.disable_adapter():
            before = examination.of(adapted, chats, asked)
    after = examination.of(adapted, chats, asked)
    samples = examination.samples(chats, asked, before, after)
    return {
        "base_figures": run.base_figures | {"general_loss": before.general_loss},
        "tuned_figures": run.best_figures | {"general_loss": after.general_loss},
        "samples": [asdict(one) for one in samples],
        "costs": run.costs() | {"peak_bytes": peak},
    }
