"""One training run of mlx-lm, watched as those of PEFT and TRL are; the best state is kept.

mlx-lm's own trainer makes the steps. It is given tokens and which of them are learned, the same
that the other trainer gets, in place of its own data sets, which know one answer per example.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna._util.atomic import write_json
from kanna._util.progress import Progress
from kanna.errors import FormatError, KannaError
from kanna.sources import adapter as names
from kanna.tracking import TrackedRun
from kanna.training import mlx_checkpoint, rate_finder
from kanna.training.checkpoints import Checkpoints
from kanna.training.objectives.base import HeldOutFigures
from kanna.training.rate_finder import RateRamp, RateTest
from kanna.training.run import TrainingRun
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import UNLEARNED, TokenizedExample
from kanna.training.watching import Watcher, interval

WEIGHTS = "adapters.safetensors"
_PADDED = 32
"""Lengths of batches are multiples of this: each length is compiled once."""


class _EndedError(Exception):
    """Leaves mlx-lm's loop, which has no other way to end early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MLXTask:
    """What is trained by mlx-lm.

    Attributes:
        folder: The base model, as Hugging Face has it.
        training: What is learned.
        held_out: What the run is judged by.
        settings: How it is trained.
        checkpoints: Where a run of the same goes on from.
        progress: Where progress is reported.
        tracked: Is told the losses of every step.
    """

    folder: Path
    training: Sequence[TokenizedExample]
    held_out: Sequence[TokenizedExample]
    settings: TrainingSettings
    checkpoints: Checkpoints
    progress: Progress
    tracked: TrackedRun

    def run(self) -> TrainingRun:
        """Train, from the last checkpoint on.

        Returns:
            The run, whose state is the best adapter, by names as mlx-lm has them.

        Raises:
            FormatError: mlx-lm cannot load the model.
            KannaError: The loss was no number before anything improved.
        """
        run, latest = self.checkpoints.begin()
        if not self.settings.auto:
            return self._run(run, latest)
        rate = rate_finder.settled(run, self.checkpoints, self._find_rate, self.progress)
        return replace(self, settings=replace(self.settings, learning_rate=rate))._run(run, latest)

    def _run(self, run: TrainingRun, latest: Path | None) -> TrainingRun:
        """Train on from a checkpoint; None: from the start."""
        import mlx.core as mx

        settings, steps = self.settings, self.settings.total_steps(len(self.training))
        mx.random.seed(settings.seed)
        model, optimizer = self._model(), self._optimizer(steps)
        run.micro_batch = settings.batch
        if latest is not None:
            mlx_checkpoint.restore(latest, model, optimizer)
        watcher = self._watcher(run, model, steps)
        with _quiet():
            watcher.begin()
            self._steps(model, optimizer, range(run.resumed, steps), _listener(watcher, optimizer))
            self.progress.finish()
        if not run.state:
            raise KannaError(
                f"the loss is no number after {run.steps} steps",
                expected="a loss that falls",
                todo=f"try --learning-rate {settings.learning_rate / 10:g}",
            )
        return run

    def _steps(self, model: Any, optimizer: Any, steps: range, listener: Any) -> None:
        """Have mlx-lm's trainer make steps, until the listener leaves its loop."""
        from mlx_lm.tuner.trainer import TrainingArgs, train

        with tempfile.TemporaryDirectory(prefix="kanna-") as scratch, suppress(_EndedError):
            train(
                model,
                optimizer,
                self.training,
                args=TrainingArgs(
                    batch_size=self.settings.batch,
                    iters=len(steps),
                    steps_per_report=1,
                    steps_per_save=steps.stop + 1,
                    adapter_file=str(Path(scratch) / WEIGHTS),
                ),
                loss=_loss,
                iterate_batches=partial(self._batches, made=steps.start),
                training_callback=listener,
            )

    def _find_rate(self) -> RateTest:
        """The test of `rate_finder`, with a model and an optimizer of its own."""
        import mlx.core as mx
        import mlx.optimizers as optimizers

        begin = time.perf_counter()
        mx.random.seed(self.settings.seed)
        model, steps = self._model(), rate_finder.STEPS
        judge = replace(self, held_out=self.held_out[: rate_finder.JUDGES])._judge
        ramp = RateRamp(model=model, judge=judge, progress=self.progress)
        optimizer = optimizers.AdamW(learning_rate=ramp.rate(0), weight_decay=0.0)
        with _quiet():
            self.progress.start("learning rate", steps, "steps")
            ramp.look(0)
            raising = _raising(ramp, optimizer)
            self._steps(model, optimizer, range(steps), raising)
            self.progress.finish()
        usual = self.settings.learning_rate
        return ramp.result(usual, raising.made, time.perf_counter() - begin)

    def _model(self) -> Any:
        """The base with layers of mlx-lm's own beside every matrix."""
        from mlx_lm.tuner.utils import linear_to_lora_layers
        from mlx_lm.utils import load_model

        try:
            loaded: tuple[Any, Any] = load_model(self.folder)
        except (ImportError, ValueError, KeyError, OSError, RuntimeError) as error:
            raise FormatError(
                f"mlx-lm cannot load {self.folder}: {error}"[:500], todo="take --backend torch"
            ) from error
        model = loaded[0]
        model.freeze()
        linear_to_lora_layers(
            model,
            len(model.layers),
            self._parameters(),
            use_dora=self.settings.method == "dora",
        )
        return model

    def _parameters(self) -> dict[str, Any]:
        settings = self.settings
        by = math.sqrt(settings.rank) if settings.method == "rslora" else settings.rank
        scale = settings.strength / by
        return {"rank": settings.rank, "scale": scale, "dropout": 0.0}

    def _optimizer(self, steps: int) -> Any:
        import mlx.optimizers as optimizers

        warm = min(10, max(1, steps // 10))
        rate: Any = optimizers.linear_schedule(0.0, self.settings.learning_rate, warm)
        return optimizers.AdamW(learning_rate=rate, weight_decay=0.0)

    def _watcher(self, run: TrainingRun, model: Any, steps: int) -> Watcher:
        settings = self.settings
        mean = sum(one.read for one in self.training) / len(self.training)
        look = sum(one.read for one in self.held_out)
        return Watcher(
            run=run,
            model=model,
            judge=self._judge,
            state=_trained,
            settings=settings,
            steps=steps,
            every=interval(steps, settings.look_every, look=look, step=settings.batch * mean),
            checkpoints=self.checkpoints,
            progress=self.progress,
            tracked=self.tracked,
        )

    def _judge(self, model: Any) -> HeldOutFigures:
        """Nats per learned token of held-out examples, read one by one."""
        training = model.training
        model.eval()
        each: list[float] = []
        for one in self.held_out:
            loss, tokens = _loss(model, *_arrays([one]))
            each.append(float(loss) * int(tokens))
        model.train(training)
        mean = sum(each) / max(1, sum(one.learned for one in self.held_out))
        return HeldOutFigures(loss=mean, domain_loss=mean, each=tuple(each))

    def _batches(self, dataset: Any, batch_size: int, *, made: int, **_: Any) -> Iterator[Any]:
        """Batches without end, in another order each time, as mlx-lm's trainer asks for them.

        Args:
            dataset: Examples in tokens.
            batch_size: How many are read together.
            made: Steps that were made before: what they read does not come again.
            **_: Of mlx-lm's own batches.
        """
        order = np.random.default_rng(self.settings.seed)
        while True:
            places: NDArray[np.int64] = order.permutation(len(dataset))
            for start in range(0, len(places), batch_size):
                if made > 0:
                    made -= 1
                    continue
                yield _arrays([dataset[i] for i in places[start : start + batch_size]])

    def save(self, run: TrainingRun, base: str, folder: Path) -> None:
        """Write the best adapter as mlx-lm does.

        Args:
            run: Holds it.
            base: The model that it names.
            folder: Where it is written.
        """
        import mlx.core as mx

        layers = {name.split(".layers.")[1].split(".")[0] for name in run.state}
        mx.save_safetensors(str(folder / WEIGHTS), dict(sorted(run.state.items())))
        write_json(
            folder / names.CONFIG,
            {
                "model": base,
                "fine_tune_type": "dora" if self.settings.method == "dora" else "lora",
                "num_layers": len(layers),
                "lora_parameters": self._parameters(),
            },
        )


def peak_bytes() -> int:
    """The most memory that MLX held."""
    import mlx.core as mx

    return int(mx.get_peak_memory())


def _arrays(examples: Sequence[TokenizedExample]) -> tuple[Any, Any]:
    """Tokens int32 and whether each is learned, [examples, padded tokens] as arrays of MLX."""
    import mlx.core as mx

    longest = max(len(one.ids) for one in examples)
    shape = (len(examples), 1 + _PADDED * -(-longest // _PADDED))
    ids: Any = np.zeros(shape, np.int32)
    learned: Any = np.zeros(shape, np.bool_)
    for row, one in enumerate(examples):
        ids[row, : len(one.ids)] = one.ids
        learned[row, : len(one.ids)] = np.array(one.labels) != UNLEARNED
    return mx.array(ids), mx.array(learned)


def _loss(model: Any, ids: Any, learned: Any) -> tuple[Any, Any]:
    """Mean nats of learned tokens, and how many they are."""
    import mlx.core as mx
    import mlx.nn as nn

    logits = model(ids[:, :-1]).astype(mx.float32)
    counted = learned[:, 1:]
    nats = nn.losses.cross_entropy(logits, ids[:, 1:]) * counted
    count = counted.sum()
    return nats.sum() / mx.maximum(count, 1), count


def _trained(model: Any) -> dict[str, Any]:
    """Values of the adapter; arrays of MLX do not change afterwards."""
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.trainable_parameters()))


def _listener(watcher: Watcher, optimizer: Any) -> Any:
    """A watcher as a callback of mlx-lm, which is imported only now."""
    from mlx_lm.tuner.callbacks import TrainingCallback

    run = watcher.run

    class Listener(TrainingCallback):
        """Is told of every step."""

        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            step = run.resumed + int(train_info["iteration"])
            watcher.logged(step, float(train_info["train_loss"]))
            if run.stopped == "done":
                watcher.stepped(step)
            if run.stopped != "done":
                raise _EndedError
            if watcher.saves:
                made = watcher.checkpoints.begun(step)
                mlx_checkpoint.write(made, watcher.model, optimizer)
                watcher.saved(made)

    return Listener()


def _raising(ramp: RateRamp, optimizer: Any) -> Any:
    """A ramp as a callback of mlx-lm, which is imported only now."""
    from mlx_lm.tuner.callbacks import TrainingCallback

    class RaisedRate(TrainingCallback):
        """Sets the rate of every step."""

        made = 0

        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            self.made = int(train_info["iteration"])
            ramp.stepped(self.made)
            if ramp.over:
                raise _EndedError
            optimizer.learning_rate = ramp.rate(self.made)

    return RaisedRate()


@contextmanager
def _quiet() -> Generator[None]:
    """Nothing of mlx-lm's own table and bar, beside ours; on a CPU no kernels by a C++ compiler."""
    import mlx.core as mx
    from mlx_lm.cli_ui import make_console

    console, before = make_console(), make_console().quiet
    console.quiet = True
    if mx.default_device() == mx.cpu:
        mx.disable_compile()
    try:
        yield
    finally:
        console.quiet = before
        mx.enable_compile()
