"""The contract of an objective: its data, its trainer of TRL, and how a held-out part is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kanna.training.answer_nats import answer_nats
from kanna.training.examples import Example, Examples
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import UNLEARNED, ChatTokenizer, TokenizedExample

_TOKENS = 2048
"""Of examples that an accelerator reads together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutFigures:
    """How a model does on the held-out part.

    Attributes:
        loss: What the objective lowers.
        domain_loss: Nats per learned token of the answers that are wanted.
        accuracy: Share of pairs whose chosen answer is likelier, per token, than the rejected one;
            None where there are no pairs.
        margin: By how many nats per token it is likelier, in the mean.
        teacher_kl: KL divergence from a teacher in nats per learned token; None without one.
        each: Of every held-out record the nats of its learned tokens together; of a pair, by how
            many nats per token the rejected answer is likelier. A file is held to them.
    """

    loss: float
    domain_loss: float
    accuracy: float | None = None
    margin: float | None = None
    teacher_kl: float | None = None
    each: tuple[float, ...] = ()


Judge = Callable[[Any], HeldOutFigures]
"""Judges a model as it is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerParts:
    """What a trainer of TRL is made from.

    Attributes:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        training: Tokenized records.
        lora: PEFT's configuration; None: the weights themselves are trained.
        arguments: What every trainer takes.
        settings: How it is trained.
        row_length: Tokens of a row that examples are packed into; None: each is padded.
    """

    model: Any
    tokenizer: Any
    training: Sequence[Any]
    lora: Any
    arguments: dict[str, Any]
    settings: TrainingSettings
    row_length: int | None = None


class Objective(Protocol):
    """What a run learns.

    Attributes:
        learning_rate: Unless another is asked for.
    """

    learning_rate: float

    def read(self, data: str | Path | Sequence[str | Path]) -> Examples[Any]:
        """Read and check data."""
        ...

    def tokens(self, chats: ChatTokenizer, records: Sequence[Any]) -> list[Any]:
        """Records in tokens, without those that have nothing to learn."""
        ...

    def wanted(self, records: Sequence[Any]) -> list[Example]:
        """The answers that are wanted, as examples."""
        ...

    def trainer(self, parts: TrainerParts) -> Any:
        """A trainer of TRL."""
        ...

    def judge(self, held_out: Sequence[Any], settings: TrainingSettings) -> Judge:
        """What judges a model by held-out records in tokens."""
        ...


def held_out_loss(model: Any, examples: Sequence[TokenizedExample], device: Any) -> float:
    """Mean loss per learned token, in nats.

    Args:
        model: A causal language model of transformers.
        examples: Held-out examples.
        device: Where it runs.
    """
    nats = held_out_nats(model, examples, device)
    return sum(nats) / max(1, sum(one.learned for one in examples))


def held_out_nats(
    model: Any, examples: Sequence[TokenizedExample], device: Any
) -> tuple[float, ...]:
    """Nats of the learned tokens of every example, together.

    Args:
        model: A causal language model of transformers.
        examples: Held-out examples.
        device: Where it runs.
    """
    import torch

    training = model.training
    model.eval()
    nats: list[float] = []
    with torch.inference_mode():
        for group in _groups(examples, str(device)):
            longest = max(len(one.ids) for one in group)
            short = [longest - len(one.ids) for one in group]
            pairs = list(zip(group, short, strict=True))
            given = {"input_ids": torch.tensor([one.ids + [0] * n for one, n in pairs])}
            if len(group) > 1:
                masks = [[1] * len(one.ids) + [0] * n for one, n in pairs]
                given["attention_mask"] = torch.tensor(masks)
            labels = torch.tensor([one.labels + [UNLEARNED] * n for one, n in pairs])
            moved = {name: value.to(device) for name, value in given.items()}
            every = answer_nats(model, moved, labels.to(device))
            counts = (labels[:, 1:] != UNLEARNED).sum(1).tolist()
            nats.extend(float(part.sum(dtype=torch.float64)) for part in every.split(counts))
    model.train(training)
    return tuple(nats)


def _groups(examples: Sequence[TokenizedExample], device: str) -> list[list[TokenizedExample]]:
    """Examples that a model reads together: one by one on a CPU, which is no faster for several."""
    groups: list[list[TokenizedExample]] = []
    most = 0 if device == "cpu" else _TOKENS
    for one in examples:
        last = groups[-1] if groups else []
        longest = max(len(one.ids), *(len(other.ids) for other in last), 0)
        if last and (len(last) + 1) * longest <= most:
            last.append(one)
        else:
            groups.append([one])
    return groups
