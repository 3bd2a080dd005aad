"""Losses of learned positions alone are those of all logits, and so are their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import needs, tiny_adapters

from kanna.training import answer_nats as answers
from kanna.training.tokens import UNLEARNED

needs.package("trl")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapters.base("llama", tmp_path_factory.mktemp("nats") / "source")


def _model(source: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(source, dtype="float32")


def _batch() -> tuple[dict[str, Any], Any]:
    import torch

    ids = torch.arange(3, 43).reshape(2, 20) % 30
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    labels = ids.masked_fill(mask == 0, UNLEARNED)
    labels[:, :6] = UNLEARNED
    return {"input_ids": ids, "attention_mask": mask}, labels


def _of_all_logits(model: Any, given: dict[str, Any], labels: Any) -> Any:
    import torch

    logits = model(**given).logits[:, :-1].float()
    kept = labels[:, 1:] != UNLEARNED
    return torch.nn.functional.cross_entropy(logits[kept], labels[:, 1:][kept], reduction="none")


@pytest.mark.parametrize("head", ["float32", "bfloat16", "bias", "soft cap"])
def test_nats_and_gradients_are_those_of_all_logits(
    source: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    import torch

    model, (given, labels) = _model(source), _batch()
    out = model.get_output_embeddings()
    if head == "bias":
        out.bias = torch.nn.Parameter(torch.linspace(-1, 1, out.out_features))
    if head == "soft cap":
        model.config.final_logit_softcapping = 2.0
    if head == "bfloat16":  # rounded first, so that the values are the same
        out.weight = torch.nn.Parameter(out.weight.detach().bfloat16().float())
    monkeypatch.setattr(answers, "_LOGITS", 5 * out.out_features)
    monkeypatch.setattr(answers, "_HEAD", 7 * out.weight.shape[1])
    weight = model.model.layers[0].self_attn.q_proj.weight
    slopes: list[Any] = []
    factors = torch.linspace(0.5, 2, int((labels[:, 1:] != UNLEARNED).sum()))

    def backward(nats: Any) -> Any:
        (nats * factors).sum().backward()
        slopes.append(weight.grad.clone())
        weight.grad = None
        return nats.detach()

    if head == "soft cap":  # a llama's own forward pass has none
        logits = model(**given).logits[:, :-1]
        kept = labels[:, 1:] != UNLEARNED
        bent = 2.0 * torch.tanh(logits[kept] / 2.0)
        wanted = torch.nn.functional.cross_entropy(bent, labels[:, 1:][kept], reduction="none")
    else:
        wanted = _of_all_logits(model, given, labels)
    wanted = backward(wanted)
    if head == "bfloat16":
        out.weight = torch.nn.Parameter(out.weight.detach().bfloat16(), requires_grad=False)
    assert answers.by_position(model)
    ours = backward(answers.answer_nats(model, given, labels))
    assert torch.allclose(ours, wanted, atol=1e-5), (ours - wanted).abs().max()
    assert torch.allclose(slopes[1], slopes[0], rtol=1e-4, atol=1e-5)


def test_factors_of_logits_are_left_to_the_model(source: Path) -> None:
    import torch

    model, (given, labels) = _model(source), _batch()
    model.config.logits_scaling = 4.0
    assert not answers.by_position(model)
    ours = answers.answer_nats(model, given, labels)
    assert torch.equal(ours, _of_all_logits(model, given, labels))


def test_a_step_of_the_trainer_has_the_loss_of_trl(source: Path, tmp_path: Path) -> None:
    """The same examples in TRL's own trainer: loss and gradients of a step agree."""
    import peft
    import torch
    import transformers
    from trl.trainer.sft_trainer import SFTTrainer

    from kanna.training import objectives
    from kanna.training.loop import arguments
    from kanna.training.memory import MicroBatch
    from kanna.training.objectives.base import TrainerParts
    from kanna.training.settings import TrainingSettings
    from kanna.training.tokens import TokenizedExample

    settings = TrainingSettings(device="cpu", rank=4, batch=2)
    examples = [
        TokenizedExample(ids=list(range(3, 3 + n)), labels=[UNLEARNED] * 4 + list(range(7, 3 + n)))
        for n in (12, 17)
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    sums: list[tuple[float, float]] = []
    for theirs in (False, True):
        torch.manual_seed(3)
        trainer = objectives.get("sft").trainer(
            TrainerParts(
                model=_model(source),
                tokenizer=tokenizer,
                training=examples,
                lora=peft.LoraConfig(**settings.lora(), init_lora_weights=False),
                arguments=arguments(settings, tmp_path, 1, MicroBatch.of(settings)),
                settings=settings,
            )
        )
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.eval()  # without dropout
        compute = SFTTrainer.compute_loss if theirs else type(trainer).compute_loss
        loss = compute(trainer, trainer.model, dict(batch), num_items_in_batch=torch.tensor(21))
        loss.backward()
        grads = [p.grad.abs().sum() for p in trainer.model.parameters() if p.grad is not None]
        sums.append((float(loss.detach()), float(sum(grads).detach())))
    assert type(trainer) is not SFTTrainer
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
