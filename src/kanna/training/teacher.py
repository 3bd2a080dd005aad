"""What a larger model says of every learned token: its likeliest tokens, kept sparse on the disk.

The teacher runs once, before the model that learns is loaded. Of each learned position its K
likeliest tokens are kept with their logarithms of probabilities; what all others share is what is
left to one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.progress import Progress
from kanna.evaluation.reference import reference_folder
from kanna.sources import Source
from kanna.training import causal_model
from kanna.training.tokens import UNLEARNED, TokenizedExample

K = 64
"""Tokens that are kept of each position."""
_POSITION = np.dtype([("ids", "<i4", (K,)), ("logp", "<f4", (K,))])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtExample(TokenizedExample):
    """An example with what the teacher says of its learned tokens.

    Attributes:
        file: Where that lies.
        start: Its first position there; it has as many as the example has learned tokens.
    """

    file: Path
    start: int

    def rows(self) -> tuple[Any, Any]:
        """Ids int32 [learned, K] and logarithms of probabilities f32 [learned, K]."""
        size = _POSITION.itemsize
        held = np.memmap(self.file, _POSITION, "r", offset=self.start * size, shape=(self.learned,))
        return np.array(held["ids"]), np.array(held["logp"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherModel:
    """A larger model of the same vocabulary.

    Attributes:
        source: The model.
        device: Where it runs.
    """

    source: Source
    device: str

    def check(self, tokenizer: Any, base: str) -> None:
        """Raise UsageError where the vocabulary is another one than that of the model that learns.

        Args:
            tokenizer: That of the model that learns.
            base: Its name.
        """
        causal_model.refuse_other_vocabulary(self.source, tokenizer, role="teacher", base=base)

    def teach(
        self, parts: Sequence[Sequence[TokenizedExample]], file: Path, progress: Progress
    ) -> list[list[TaughtExample]]:
        """Examples with what the teacher says of them, see the function of that name."""
        return teach(parts, self._model, file, progress)

    def _model(self) -> Any:
        folder = reference_folder(self.source)
        return causal_model.load(folder, self.device).eval().to(self.device)


def teach(
    parts: Sequence[Sequence[TokenizedExample]],
    model: Callable[[], Any],
    file: Path,
    progress: Progress,
) -> list[list[TaughtExample]]:
    """Examples with what a teacher says of them; it runs unless the file is there.

    Args:
        parts: Examples in tokens.
        model: Gives the teacher, a causal language model of transformers that is not training.
        file: Where its probabilities lie, _POSITION for each learned token.
        progress: Where progress is reported.
    """
    every = [one for part in parts for one in part]
    starts = np.cumsum([0, *(one.learned for one in every)]).tolist()
    if not (file.is_file() and file.stat().st_size == starts[-1] * _POSITION.itemsize):
        _run(model, every, file, progress)
    taught = iter(
        TaughtExample(ids=one.ids, labels=one.labels, file=file, start=start)
        for one, start in zip(every, starts, strict=False)
    )
    return [[next(taught) for _ in part] for part in parts]


def _run(
    load: Callable[[], Any], examples: Sequence[TokenizedExample], file: Path, progress: Progress
) -> None:
    import torch

    partial = file.with_suffix(".partial")
    with torch.random.fork_rng():
        model = load()
        progress.start("teacher", len(examples), "examples")
        with partial.open("wb") as out, torch.inference_mode():
            for one in examples:
                out.write(_kept(model, one).tobytes())
                progress.advance(1)
        progress.finish()
        del model
    gc.collect()
    partial.replace(file)


def _kept(model: Any, one: TokenizedExample) -> Any:
    """Positions of an example as the file has them."""
    import torch

    places = [i for i, label in enumerate(one.labels[1:]) if label != UNLEARNED]
    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor([one.ids], device=device)).logits[0, places]
    logp, ids = torch.log_softmax(logits.float(), -1).topk(min(K, logits.shape[-1]), dim=-1)
    rows = np.zeros(len(places), _POSITION)
    rows["logp"] = -np.inf
    rows["ids"][:, : ids.shape[-1]] = ids.cpu().numpy()
    rows["logp"][:, : ids.shape[-1]] = logp.cpu().numpy()
    return rows


def divergence(logits: Any, ids: Any, logp: Any) -> Any:
    """KL divergence, teacher ‖ student, in nats, over the kept tokens and all others as one.

    It is at most the divergence over the whole vocabulary.

    Args:
        logits: Of the student, f32 [N, vocabulary].
        ids: Kept tokens of the teacher, int [N, K].
        logp: Logarithms of their probabilities, f32 [N, K]; -inf where there is none.

    Returns:
        f32 [N].
    """
    import torch

    theirs = torch.log_softmax(logits, -1).gather(-1, ids)
    p = logp.exp()
    kept = torch.where(p > 0, p * (logp.clamp_min(-1e4) - theirs), torch.zeros_like(p)).sum(-1)
    rest = (1 - p.sum(-1)).clamp_min(0.0)
    # Tokens that stand for none have p = 0, and must not be taken from the student's rest.
    taken = torch.where(p > 0, theirs.exp(), torch.zeros_like(p)).sum(-1)
    left = (1 - taken).clamp_min(1e-7)
    other = torch.where(rest > 1e-7, rest * (rest.clamp_min(1e-7).log() - left.log()), 0.0)
    return kept + other
