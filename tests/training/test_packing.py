"""Short examples in one row: the same loss and gradients as one by one, in fewer tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs, tiny_adapters

import kanna
from kanna._util.progress import Silent
from kanna.errors import UsageError
from kanna.training import objectives, packed_attention, packing, teacher
from kanna.training.loop import arguments
from kanna.training.memory import MicroBatch
from kanna.training.objectives import sft
from kanna.training.objectives.base import TrainerParts
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import UNLEARNED, TokenizedExample

needs.package("trl")

LENGTHS = (21, 4, 17, 9, 5, 26)
ROW = 50


def texts(lengths: tuple[int, ...] = LENGTHS) -> list[TokenizedExample]:
    """Examples with prompts that are not learned; the second is a text, learned from its start."""
    order = np.random.default_rng(0)
    made: list[TokenizedExample] = []
    for place, count in enumerate(lengths):
        ids = order.integers(5, 500, count).tolist()
        prompt = 0 if place == 1 else count // 2
        made.append(TokenizedExample(ids=ids, labels=[UNLEARNED] * prompt + ids[prompt:]))
    return made


def model_of(family: str, folder: Path) -> Any:
    import torch
    import transformers

    source = tiny_adapters.base(family, folder / family)
    return transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)


def step(
    family: str, folder: Path, examples: list[Any], row_length: int | None, objective: str = "sft"
) -> tuple[tuple[int, ...], float, Any]:
    """Shape of a batch of the trainer, its loss, and the gradients of the adapter in one vector."""
    import peft
    import torch
    import transformers

    settings = TrainingSettings(rank=4, batch=len(examples), objective=objective)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        tiny_adapters.base(family, folder / family)
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = model_of(family, folder)
    torch.manual_seed(3)
    trainer = objectives.get(objective).trainer(
        TrainerParts(
            model=model,
            tokenizer=tokenizer,
            training=examples,
            lora=peft.LoraConfig(**settings.lora(), init_lora_weights=False),
            arguments=arguments(settings, folder, 1, MicroBatch.of(settings)),
            settings=settings,
            row_length=row_length,
        )
    )
    [batch], count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, "cpu")
    assert int(count) == sum(one.learned for one in examples)
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)
    loss.backward()
    grads = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return tuple(batch["input_ids"].shape), float(loss.detach()), torch.cat(grads)


def same(one: tuple[Any, float, Any], two: tuple[Any, float, Any]) -> bool:
    """Whether loss and gradients are."""
    difference = float((one[2] - two[2]).norm() / two[2].norm())
    return difference <= 1e-5 and abs(one[1] - two[1]) <= 1e-5 * abs(two[1])


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3-moe"])
def test_a_packed_row_has_loss_and_gradients_of_its_examples(family: str, tmp_path: Path) -> None:
    padded = step(family, tmp_path, texts(), None)
    packed = step(family, tmp_path, texts(), ROW)
    assert padded[0] == (6, 26) and packed[0] == (2, 47)
    assert float(padded[2].norm()) > 0 and same(packed, padded)


def test_trl_computes_the_same_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = step("llama", tmp_path, texts(), None)

    def never(model: Any) -> bool:
        return False

    monkeypatch.setattr(sft, "by_position", never)  # as on accelerators
    assert same(step("llama", tmp_path, texts(), ROW), ours)


def test_positions_that_go_on_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded, arrays = step("llama", tmp_path, texts(), None), packing.arrays

    def going_on(filled: Any) -> Any:
        made = arrays(filled)
        made["position_ids"][:] = np.arange(made["position_ids"].shape[1])
        return made

    monkeypatch.setattr(packing, "arrays", going_on)
    assert not same(step("llama", tmp_path, texts(), ROW), padded)


def test_what_a_teacher_says_stays_with_its_tokens(tmp_path: Path) -> None:
    larger = model_of("llama", tmp_path)
    [taught] = teacher.teach([texts()], lambda: larger.eval(), tmp_path / "t.bin", Silent())
    padded = step("llama", tmp_path, taught, None, "distill")
    packed = step("llama", tmp_path, taught, ROW, "distill")
    assert packed[0] == (2, 47) and same(packed, padded)


def test_rows_hold_every_example_once_and_never_more_tokens_than_padding() -> None:
    order = np.random.default_rng(1)
    assert packing.rows([600, 400, 600], 1024) == [[0], [2], [1]]  # two rows of 1000 are more
    assert packing.rows([30, 60, 40, 50], 100) == [[1, 2], [3, 0]]
    for _ in range(200):
        lengths = order.integers(1, 65, order.integers(1, 12)).tolist()
        rows = packing.rows(lengths, 64)
        assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
        widths = [sum(lengths[place] for place in row) for row in rows]
        assert max(widths) <= 64 and len(rows) * max(widths) <= len(lengths) * max(lengths)


def test_padding_is_counted_with_and_without() -> None:
    alike = packing.measure([20] * 8, 4, 100, 0)
    assert (alike.read, alike.padded, alike.packed, alike.saved) == (160, 160, 160, 0)
    assert not alike.is_wanted(None) and alike.is_wanted(True)
    uneven = packing.measure([10, 90], 2, 100, 0)
    assert (uneven.read, uneven.padded, uneven.packed) == (100, 180, 100)
    assert uneven.is_wanted(None) and not uneven.is_wanted(False)
    assert uneven.line(None) == (
        "Padding: 44% of a batch of 2, 0% where its examples are packed into rows of at most 100 "
        "tokens; they are packed."
    )
    assert uneven.line(False).endswith("they are not packed.")


@pytest.mark.parametrize("family", ["qwen35", "granite-hybrid"])
def test_states_that_run_through_a_row_are_seen(family: str, tmp_path: Path) -> None:
    why = packed_attention.refusal(model_of(family, tmp_path), texts())
    assert "would change what is computed of the next one" in why


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its data, of which some examples are long."""
    folder = tmp_path_factory.mktemp("packing")
    tiny_adapters.base("llama", folder / "source")
    words = ["fox", "dog", "once", "time"]
    lines = [
        {"prompt": f"Say {words[i % 4]} {i}", "completion": f" {words[i % 4]}" * (1 + i % 7 * 3)}
        for i in range(40)
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def adapt(home: Path, name: str, **more: Any) -> kanna.AdaptResult:
    settings: dict[str, Any] = {"threads": 1, "rank": 4, "steps": 6, "samples": 0, "verify": False}
    return kanna.adapt(home / "source", home / "data.jsonl", home / name, **(settings | more))


class Remarks(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def remark(self, text: str) -> None:
        self.texts.append(text)


def test_uneven_examples_are_packed_by_themselves_and_learn_the_same(home: Path) -> None:
    told = Remarks()
    packed, padded = adapt(home, "packed", progress=told), adapt(home, "padded", packing=False)
    [picture] = [text for text in told.texts if "Lengths of" in text]
    assert picture.splitlines()[-1] == packing.Padding(**packed.packing["padding"]).line(None)
    assert packed.packing["used"] and packed.settings["packing"] is True
    assert not padded.packing["used"] and padded.settings["packing"] is False
    tokens = packed.packing["padding"]
    assert tokens["read"] <= tokens["packed"] < 0.9 * tokens["padded"]
    assert packed.tuned_loss == pytest.approx(padded.tuned_loss, rel=1e-4)
    assert packed.steps == padded.steps == 6 and packed.tuned_loss < packed.base_loss
    assert "of packed rows; packed" in (home / "packed" / "report.html").read_text()


def test_a_model_that_cannot_is_padded_and_says_why(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*given: Any) -> str:
        return "it is made up"

    monkeypatch.setattr(packed_attention, "refusal", cannot)
    done = adapt(home, "cannot", steps=1, packing=True)
    assert not done.packing["used"]
    assert "examples are padded, not packed: it is made up" in done.notes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "dpo"}, "--packing with --objective dpo"),
        ({"backend": "mlx"}, "--backend mlx with --packing"),
    ],
)
def test_trainers_that_pad_are_named(home: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        adapt(home, "no", packing=True, **options)
    assert not (home / "no").exists()
