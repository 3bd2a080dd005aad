"""Training: an adapter of a model, or the model itself, from a user's own chats or texts.

PEFT, TRL and mlx-lm train: what comes before (data, held-out split, template) and after is here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from kanna import tracking
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna.formats import safetensors
from kanna.sources import Source
from kanna.tracking import TrackRequest
from kanna.training import objectives, pipeline, splitting
from kanna.training.examples import HELD_OUT
from kanna.training.job import AdapterJob
from kanna.training.request import AdaptRequest, with_teacher
from kanna.training.result import AdaptResult
from kanna.training.settings import METHODS, TrainingSettings, usual_rate
from kanna.training.written import REPORT

__all__ = ["HELD_OUT", "METHODS", "REPORT", "AdaptResult", "TrainingSettings", "adapt"]


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
    packing: bool | None = None,
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
            `text`, Parquet files and folders of `datasets` with the same in rows, text files, or
            folders of them; for `dpo` and `orpo`, pairs: `prompt`, `chosen` and `rejected`.
        out: The folder to write.
        objective: `sft`, answers are learned as they are; `dpo` or `orpo`, of two answers the
            chosen one is preferred.
        method: `lora`, `rslora` or `dora` beside the weights, or `full`, all of them: `out` is
            then a model itself, and after its base it is taken where adapters are.
        rank: Rank of the changes.
        alpha: Their strength; None: twice the rank.
        learning_rate: Of AdamW, after a short warm-up; None: by the objective, 5e-4 of `sft`, 5e-5
            of `dpo`, 1e-4 of `orpo`; with `full` a tenth of it.
        auto: Find the learning rate by a short test first, on the data itself.
        teacher: A larger model of the same vocabulary on this machine: half of the loss is the
            divergence from what it says of the answers' tokens.
        beta: How much a preference weighs, of `dpo` and `orpo`.
        epochs: How often all examples are read at most.
        steps: Steps at most; None: by the epochs.
        minutes: Minutes of training at most.
        batch: Examples of one step.
        max_length: Tokens of an example at most; what is longer is cut, and counted.
        packing: Put short examples of a step into rows of `max_length` tokens, in the place of
            padding; None: where that saves more than a tenth of the tokens. A model that cannot
            keep them apart is trained with padding, and a note says why.
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
        retrain_draft: Train what drafts on with the tuned model at rest, and keep it beside the
            adapter where more of its guesses are taken.
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
    objective = with_teacher(objective, teacher is not None)
    chosen = objectives.get(objective)
    settings = TrainingSettings(
        objective=objective,
        method=method,
        rank=rank,
        alpha=alpha,
        learning_rate=usual_rate(chosen.learning_rate, method)
        if learning_rate is None
        else learning_rate,
        auto=auto,
        beta=beta,
        epochs=epochs,
        steps=steps,
        minutes=minutes,
        batch=batch,
        packing=packing,
        seed=seed,
        base_bits=base_bits,
    )
    request = AdaptRequest(
        settings=settings,
        rate=learning_rate,
        teacher=teacher,
        max_length=max_length,
        samples=samples,
        for_plan=for_plan,
        verify=verify,
        draft=draft,
        retrain_draft=retrain_draft,
        backend=backend,
        device=device,
        threads=threads,
        revision=revision,
        offline=offline,
    )
    request.refuse()
    read = chosen.read(data)
    parts = splitting.split(read.examples, seed)
    request = request.with_backend()
    safetensors.check_folder(out, overwrite=overwrite, needed=1 << 20)
    asked = {"source": getattr(source, "given", source), "max_length": max_length}
    with tracking.following(
        TrackRequest(server=track, experiment=experiment, weights=track_weights),
        "adapt",
        out.name,
        unsent=out.with_name(f"{out.name}.untracked.jsonl"),
        parameters=asked | asdict(request.settings),
        remark=remark,
    ) as tracked:
        job = AdapterJob.of(source, request, read, parts, tracked, progress)
        return pipeline.run(job, out, begin, progress)
