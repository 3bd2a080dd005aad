"""The contract of an objective: its data, its trainer of TRL, and how a held-out part is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kanna.training.examples import Example, Examples
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import UNLEARNED, ChatTokenizer, TokenizedExample

_TOKENS = 2048
"""Of examples that an accelerator reads together."""
_POSITIONS = 64
"""Positions whose softmax is computed at once."""


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
"""Judges a model of PEFT as it is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerParts:
    """What a trainer of TRL is made from.

    Attributes:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        training: Tokenized records.
        lora: PEFT's configuration.
        arguments: What every trainer takes.
        settings: How it is trained.
    """

    model: Any
    tokenizer: Any
    training: Sequence[Any]
    lora: Any
    arguments: dict[str, Any]
    settings: TrainingSettings


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
            given = [one.ids + [0] * (longest - len(one.ids)) for one in group]
            more: dict[str, Any] = {}
            if len(group) > 1:
                mask = [[int(at < len(one.ids)) for at in range(longest)] for one in group]
                more["attention_mask"] = torch.tensor(mask, device=device)
            every = model(input_ids=torch.tensor(given, device=device), **more).logits
            for one, logits in zip(group, every, strict=True):
                labels = torch.tensor(one.labels[1:], device=device)
                nats.append(_nats(logits[: len(labels)], labels))
    model.train(training)
    return tuple(nats)


def _nats(logits: Any, labels: Any) -> float:
    """The sum over learned tokens, some positions at a time: their softmax takes memory, too."""
    import torch

    total = 0.0
    for rows, targets in zip(logits.split(_POSITIONS), labels.split(_POSITIONS), strict=True):
        kept = targets != UNLEARNED
        total += float(
            torch.nn.functional.cross_entropy(rows[kept].float(), targets[kept], reduction="sum")
        )
    return total


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
