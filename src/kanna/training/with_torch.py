"""An adapter trained by PEFT and TRL, with what is counted and measured around it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna.training import (
    causal_model,
    examination,
    loop,
    memory,
    objectives,
    quantized_base,
    written,
)
from kanna.training.aware import AwareOutcome, AwarePhase
from kanna.training.held_answers import calling_prompts
from kanna.training.job import AdapterJob, Learning, Trained
from kanna.training.planned_values import StoredTypes
from kanna.training.tokens import ChatTokenizer


def learn(job: AdapterJob, task: Learning) -> Trained:
    """Train, and write the adapter.

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
    )
    adapted, run = loop.train(training)
    outcome = None
    if job.types is not None:
        adapted, outcome = _aware(job, training, adapted, run, job.types)
    wanted = objectives.get(job.settings.objective).wanted(job.split.held_out)
    changed = _examine(job, adapted, task.chats, wanted, run)
    changed["costs"]["predicted_bytes"] = predicted
    changed["aware"] = outcome.to_dict() if outcome else {}
    calls = None
    if job.gate_file and (prompts := calling_prompts(wanted, task.chats)):
        calls = examination.valid_calls(adapted, task.chats, prompts)
    written.adapter(job, partial(_save, job, adapted), task.folder)
    if job.draft is not None:
        changed["draft"] = job.draft.run(adapted, training, task.folder).to_dict()
    return Trained(run=run, changed=changed, calls=calls)


def _model(job: AdapterJob, progress: Progress) -> Any:
    """The base, as floats or in few bits."""
    if (bits := job.settings.base_bits) is None:
        return causal_model.load(job.folder, job.settings.device)
    memory.give_back_at_once()
    with causal_model.loading(job.folder):
        return quantized_base.load(job.folder, bits, job.threads, progress)


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


def _examine(
    job: AdapterJob, adapted: Any, chats: ChatTokenizer, wanted: list[Any], run: loop.TrainingRun
) -> dict[str, Any]:
    """What the adapter changed, and what it cost."""
    peak = memory.peak_bytes(job.settings.device)
    base, tuned = examination.general_losses(adapted, chats.tokenizer)
    samples = examination.sample_answers(adapted, chats, wanted[: job.samples])
    return {
        "base_figures": run.base_figures | {"general_loss": base},
        "tuned_figures": run.best_figures | {"general_loss": tuned},
        "samples": [asdict(one) for one in samples],
        "costs": run.costs() | {"peak_bytes": peak},
    }
