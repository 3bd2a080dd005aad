"""A model's own head, trained to guess what the tuned model writes.

The tuned model rests, and gives of each training text its states and what it says at every learned
token: its likeliest tokens, with all others as one (`teacher.divergence`). The head lowers the KL
divergence from that in each of its passes, in which it reads its own states as it does while it
drafts. Every pass weighs as much as the one before it times _LATER: a late guess counts only where
the earlier ones were right.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna.adapters import DRAFT_HEAD
from kanna.benchmark.drafting import AHEAD
from kanna.training import teacher
from kanna.training.checkpoints import EVERY, Checkpoints
from kanna.training.drafts.own_head import OwnHead
from kanna.training.drafts.written_text import TargetModel, plain
from kanna.training.loop import TrainingTask
from kanna.training.run import TrainingRun
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import UNLEARNED, TokenizedExample

RATE = 1e-3
"""Learning rate of AdamW; all of the head's values are trained, which is a layer of many."""
_LATER = 0.8
_LOOKS = 8
_ROWS = 64
"""Positions whose softmax over the vocabulary is in memory at once."""
_FILE = "head.safetensors"


@dataclass(slots=True, kw_only=True)
class HeadTraining:
    """One run.

    Attributes:
        head: What is trained; at its best afterwards.
        target: Its model, tuned.
        training: Texts in tokens.
        held_out: Those by which the best state is chosen.
        settings: Steps, examples of a step, minutes and seed are those of the model's own run.
        checkpoints: Where a run of the same goes on from.
        progress: Where progress is reported.
    """

    head: OwnHead
    target: TargetModel
    training: Sequence[TokenizedExample]
    held_out: Sequence[TokenizedExample]
    settings: TrainingSettings
    checkpoints: Checkpoints
    progress: Progress

    @classmethod
    def of(cls, head: OwnHead, task: TrainingTask) -> HeadTraining:
        """The one that follows the training of its model.

        Args:
            head: What is trained.
            task: How its model was trained, with checkpoints of the head's own.
        """
        return cls(
            head=head,
            target=head.target,
            training=[plain(one) for one in task.training],
            held_out=[plain(one) for one in task.held_out],
            settings=task.settings,
            checkpoints=task.checkpoints,
            progress=task.progress,
        )

    @property
    def trained(self) -> OwnHead:
        """What was trained."""
        return self.head

    def write(self, folder: Path) -> Path:
        """Write the head beside an adapter; returns the file.

        Args:
            folder: That of the adapter.
        """
        from safetensors.torch import save_file

        save_file(self.head.state(), folder / DRAFT_HEAD, {"format": "pt"})
        return folder / DRAFT_HEAD

    def run(self) -> TrainingRun:
        """Train, from the last checkpoint on; returns what came of it."""
        import torch

        parameters = list(self.head.modules.parameters())
        for one in parameters:
            one.requires_grad_()
        optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
        run, latest = self.checkpoints.begin()
        if latest is not None:
            _resume(self.head, optimizer, latest)
        steps = self.settings.total_steps(len(self.training))
        saved = time.perf_counter()
        begin = saved - run.seconds
        self.progress.start("retrain the head", steps, "steps")
        self.progress.advance(run.steps)
        if latest is None:
            run.base_loss = self._look(run)
        with self.target.still():
            while run.steps < steps and run.stopped == "done":
                self._step(optimizer, run.steps, steps)
                run.steps += 1
                run.seconds = time.perf_counter() - begin
                late = run.seconds > self.settings.minutes * 60
                if run.steps % max(1, steps // _LOOKS) == 0 or run.steps == steps or late:
                    self._look(run)
                if late:
                    run.stopped = "time"
                self.progress.advance(1, f"held-out divergence {run.best_loss:.3f}")
                if time.perf_counter() - saved >= EVERY:
                    self._save(optimizer, run)
                    saved = time.perf_counter()
        self.progress.finish()
        self.head.put(run.state)
        return run

    def _order(self, step: int) -> list[TokenizedExample]:
        """Examples of a step: every epoch in an order of its own."""
        import numpy as np

        count, batch = len(self.training), self.settings.batch
        places = [step * batch + at for at in range(batch)]
        orders = {
            epoch: np.random.default_rng((self.settings.seed, epoch)).permutation(count)
            for epoch in {place // count for place in places}
        }
        return [self.training[orders[place // count][place % count]] for place in places]

    def _step(self, optimizer: Any, step: int, steps: int) -> None:
        """Learn from some examples; the rate rises at first, and falls to a tenth."""
        import torch

        rate = RATE * min(1.0, (step + 1) / max(1, steps // 10)) * (1 - 0.9 * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        examples = self._order(step)
        learned = sum(one.learned for one in examples)
        for one in examples:
            with torch.enable_grad():
                self._losses(one, 1 / max(1, learned))
        torch.nn.utils.clip_grad_norm_(self.head.modules.parameters(), 1.0)
        optimizer.step()

    def _look(self, run: TrainingRun) -> float:
        """The mean divergence on held-out texts, in nats; keeps the state that is the best."""
        with self.target.still():
            total = sum(self._losses(one) for one in self.held_out)
        loss = total / max(1, sum(one.learned for one in self.held_out))
        run.history.append({"step": run.steps, "held_out_loss": loss})
        if loss < run.best_loss:
            run.best_loss, run.best_step, run.state = loss, run.steps, self.head.state()
        return loss

    def _losses(self, one: TokenizedExample, weight: float | None = None) -> float:
        """Divergence of all passes over the learned tokens of an example, summed, in nats.

        Args:
            one: The example.
            weight: What its gradients are multiplied by, which are added up; None: there are none.
        """
        import torch

        with torch.no_grad():
            states = self.target.states(one.ids[:-1])
            places = [at for at, label in enumerate(one.labels[1:]) if label != UNLEARNED]
            wanted = [self._said(states[part]) for part in _parts(places)]
        passes = self.head.passes(one.ids[:-1], states[:-1], AHEAD)
        total, weights = 0.0, [_LATER**at for at in range(AHEAD)]
        leaves = [made.detach().requires_grad_(weight is not None) for made in passes]
        for at, leaf in enumerate(leaves):
            share = weights[at] / sum(weights)
            for part, (logp, ids) in zip(_parts(places), wanted, strict=True):
                kept = [row for row, place in enumerate(part) if place >= at]
                if not kept:
                    continue
                logits = self.target.logits(leaf[[part[row] for row in kept]])
                loss = share * teacher.divergence(logits, ids[kept], logp[kept]).sum()
                if weight is not None:
                    (loss * weight).backward()
                total += float(loss.detach())
        if weight is not None:
            used = [
                (made, leaf)
                for made, leaf in zip(passes, leaves, strict=True)
                if leaf.grad is not None
            ]
            torch.autograd.backward([m for m, _ in used], [leaf.grad for _, leaf in used])
        return total

    def _said(self, states: Any) -> tuple[Any, Any]:
        """The tuned model's likeliest tokens: logarithms of probabilities and ids, [rows, K]."""
        import torch

        logits = self.target.logits(states)
        return torch.log_softmax(logits, -1).topk(min(teacher.K, logits.shape[-1]), dim=-1)

    def _save(self, optimizer: Any, run: TrainingRun) -> None:
        """Make a checkpoint."""
        from safetensors.torch import save_file

        folder = self.checkpoints.begun(run.steps)
        values = {f"value.{n}": v for n, v in self.head.state().items()}
        for at, moments in optimizer.state_dict()["state"].items():
            values |= {f"moment.{at}.{n}": v.detach().cpu() for n, v in moments.items()}
        save_file({n: v.contiguous() for n, v in values.items()}, folder / _FILE)
        self.checkpoints.complete(folder, run)


def _parts(places: Sequence[int]) -> list[list[int]]:
    return [list(places[at : at + _ROWS]) for at in range(0, len(places), _ROWS)]


def _resume(head: OwnHead, optimizer: Any, checkpoint: Path) -> None:
    """Take values and the optimizer's moments over from a checkpoint."""
    from safetensors.torch import load_file

    values = load_file(checkpoint / _FILE)
    head.put({n.removeprefix("value."): v for n, v in values.items() if n.startswith("value.")})
    moments: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        kind, _, rest = name.partition(".")
        if kind == "moment":
            at, _, key = rest.partition(".")
            moments.setdefault(int(at), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
