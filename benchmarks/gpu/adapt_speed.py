"""How fast `kanna adapt` trains on an accelerator, beside TRL and PEFT alone with its settings.

    python -m benchmarks.gpu.adapt_speed --device cuda

The shape is Qwen2.5-1.5B's, its weights random, the examples words. Compared is the median time of
a step: looks at the held-out loss, which TRL alone does not take, are between steps of kanna, and
`with looks` counts them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import arguments, tables
from benchmarks.gpu import random_models

import kanna
from kanna.calibration.devices import pick_device, release
from kanna.training import examples
from kanna.training.loop import arguments as trainer_arguments
from kanna.training.memory import MicroBatch
from kanna.training.settings import TrainingSettings

_WORDS = ["plane", "wood", "edge", "grain", "board", "shave", "thin", "blade", "oak", "ash", "pine"]
_WARM, _LOOKS = 4, 8
"""Steps before anything is timed; looks of a run, as kanna takes them."""


class StepClock:
    """Progress that notes when each step was through, by a clock."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.ends: list[float] = []
        self._now = now
        self._training = False

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin to listen where the training begins."""
        self._training = stage == "train"

    def advance(self, amount: int, detail: str = "") -> None:
        """Note the end of a step."""
        if self._training and amount:
            self.ends.append(self._now())

    def finish(self) -> None:
        """Stop listening."""
        self._training = False


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--device", default=None)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--words", type=int, default=220, help="of an example")
    parser.add_argument("--small", action="store_true", help="a small shape, to try the script")
    options = parser.parse_args()
    device = pick_device(options.device)
    small = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        changes = small | {"vocab_size": 8192} if options.small else {}
        source = random_models.make(home / "model", random_models.QWEN_1_5B, device, **changes)
        data = home / "chats.jsonl"
        data.write_text("".join(_chat(n, options.words) for n in range(options.batch * 48)))
        of_trl(source, home / "adapter", data, device, options, steps=_WARM)
        ours, tokens = of_kanna(source, data, home / "adapter", device, options)
        release()
        theirs = of_trl(source, home / "adapter", data, device, options)
        rows = [
            {"who": "kanna adapt", "tokens/s": tokens / ours[0], "with looks": tokens / ours[1]},
            {"who": "TRL and PEFT", "tokens/s": tokens / theirs, "with looks": None},
            {"who": "ratio", "tokens/s": theirs / ours[0], "with looks": theirs / ours[1]},
        ]
        tables.print_rows(rows, options.json)


def _chat(number: int, words: int) -> str:
    rng = np.random.default_rng(number)
    question, answer = (" ".join(rng.choice(_WORDS, words // 2)) for _ in range(2))
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}) + "\n"


def of_kanna(
    source: Path, data: Path, out: Path, device: str, options: Any
) -> tuple[tuple[float, float], float]:
    """Seconds of a step, without and with looks, and tokens of one."""
    clock = StepClock()
    result = kanna.adapt(
        source,
        data,
        out,
        steps=options.steps,
        batch=options.batch,
        samples=0,
        minutes=60,
        device=device,
        progress=clock,
    )
    steps, every = np.diff(clock.ends), max(1, options.steps // _LOOKS)
    alone = [seconds for number, seconds in enumerate(steps, 1) if number % every]
    tokens = result.lengths["median"] * options.batch
    return (float(np.median(alone or steps)), float(np.mean(steps))), float(tokens)


def of_trl(
    source: Path,
    adapter: Path,
    data: Path,
    device: str,
    options: Any,
    steps: int = 0,
    now: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of a step of TRL's trainer, with the settings that kanna says it had."""
    import datasets
    import peft
    import torch
    import transformers
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    settings = TrainingSettings(steps=steps or options.steps, batch=options.batch, device=device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    rows: list[dict[str, list[int]]] = []
    for example in examples.read(data).examples:
        text = example.text
        if example.messages:
            text = tokenizer.apply_chat_template(example.messages, tokenize=False)
        ids = tokenizer(text)["input_ids"]
        rows.append({"input_ids": ids, "labels": ids})
    ends: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())

    step = MicroBatch.of(settings)
    given = trainer_arguments(settings, adapter.with_name("scratch"), settings.steps or 1, step)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **given, packing=False, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(**settings.lora()),
        callbacks=[Clock()],
    )
    trainer.train()
    return statistics.median(np.diff(ends).tolist())


if __name__ == "__main__":
    main()
