"""`kanna adapt --objective dpo|orpo`: pairs that are read, refused, learned; TRL's own losses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters

import kanna
from kanna.cli.main import cli
from kanna.errors import KannaError, UsageError
from kanna.formats import folder_files
from kanna.training import AdaptResult, TrainingSettings, objectives, preferences
from kanna.training.examples import read
from kanna.training.memory import MicroBatch
from kanna.training.objectives.base import TrainerParts
from kanna.training.tokens import ChatTokenizer

needs.package("trl")

WORDS = ["fox", "dog", "once", "time", "quick", "brown"]


def fast(**more: Any) -> dict[str, Any]:
    return {
        "threads": 1,
        "rank": 4,
        "learning_rate": 5e-3,
        "steps": 12,
        "batch": 4,
        "samples": 0,
        "verify": False,
        **more,
    }


def pair(index: int) -> dict[str, Any]:
    """The longer answer is chosen, the base prefers neither."""
    word = WORDS[index % len(WORDS)]
    ask = [{"role": "user", "content": f"Say {word} {index}"}]
    sides = {"chosen": f"{word} {word} {word}", "rejected": f"brown time {index}"}
    return {"prompt": ask} | {k: [{"role": "assistant", "content": v}] for k, v in sides.items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    tiny_adapters.base("llama", folder / "source")
    lines = [json.dumps(pair(i)) for i in range(30)]
    (folder / "pairs.jsonl").write_text("\n".join([*lines, lines[0]]))
    return folder


def train(home: Path, name: str, objective: str, **more: Any) -> AdaptResult:
    data = home / "pairs.jsonl"
    return kanna.adapt(home / "source", data, home / name, objective=objective, **fast(**more))


def tokenizer_of(home: Path, most: int = 512) -> ChatTokenizer:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(home / "source")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return ChatTokenizer.of(tokenizer, folder_files.files(home / "source"), most)


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_chosen_answers_become_likelier(home: Path, objective: str) -> None:
    done = train(home, objective, objective)
    assert done.ok and done.objective == objective
    assert (done.examples["train"], done.examples["duplicates"]) == (27, 1)
    before, after = done.base_figures, done.tuned_figures
    assert after["margin"] > before["margin"] and after["accuracy"] >= before["accuracy"]
    if objective == "dpo":
        assert math.isclose(done.base_loss, math.log(2), rel_tol=1e-5)
    else:
        assert after["domain_loss"] < before["domain_loss"]
    out = home / objective
    pairs = preferences.read(out / "held-out-pairs.jsonl").examples
    chosen = read(out / "held-out.jsonl").examples
    assert [p.chosen.to_json() for p in pairs] == [e.to_json() for e in chosen] and len(pairs) == 3
    assert kanna.merge(home / "source", out, dry_run=True).notes == []


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_held_out_losses_are_what_trl_computes(home: Path, objective: str, tmp_path: Path) -> None:
    import peft
    import torch
    import transformers

    from kanna.training import loop

    chats = tokenizer_of(home)
    pairs = chats.pairs(preferences.read(home / "pairs.jsonl").examples[:4])
    settings = TrainingSettings(objective=objective, beta=0.3)
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "source", dtype=torch.float32)
    trainer = objectives.get(objective).trainer(
        TrainerParts(
            model=model,
            tokenizer=chats.tokenizer,
            training=pairs,
            lora=peft.LoraConfig(**settings.lora(), init_lora_weights=False),
            arguments=loop.arguments(settings, tmp_path, 1, MicroBatch.of(settings)),
            settings=settings,
        )
    )
    adapted = trainer.model.eval()
    judged = objectives.get(objective).judge(pairs, settings)(adapted)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        loss = float(trainer.compute_loss(adapted, batch))
    assert math.isclose(judged.loss, loss, rel_tol=2e-3 if objective == "orpo" else 1e-4)
    assert not math.isclose(judged.loss, math.log(2), rel_tol=1e-3)


def test_answers_in_every_form_are_the_same_tokens(home: Path, tmp_path: Path) -> None:
    ask = [{"role": "user", "content": "Say fox"}]
    good, bad = ({"role": "assistant", "content": text} for text in ("fox", "dog"))
    forms: list[dict[str, Any]] = [
        {"prompt": ask, "chosen": [good], "rejected": [bad]},
        {"prompt": ask, "chosen": good, "rejected": "dog"},
        {"chosen": [*ask, good], "rejected": [*ask, bad]},
        {"input": {"messages": ask}, "preferred_output": [good], "non_preferred_output": [bad]},
    ]
    texts: set[str] = set()
    for form in forms:
        (tmp_path / "d.jsonl").write_text(json.dumps(form))
        [one] = preferences.read(tmp_path / "d.jsonl").examples
        texts.add(one.to_json())
    assert len(texts) == 1
    chats = tokenizer_of(home)
    [tokens] = chats.pairs([one])
    decode = chats.tokenizer.decode
    assert "Say fox" in decode(tokens.prompt) and "dog" not in decode(tokens.prompt)
    assert "fox<|im_end|>" in decode(tokens.chosen) and "dog<|im_end|>" in decode(tokens.rejected)
    assert "Say" not in decode(tokens.chosen)
    (tmp_path / "d.jsonl").write_text('{"prompt": "Say", "chosen": " fox", "rejected": " dog"}')
    [tokens] = chats.pairs(preferences.read(tmp_path / "d.jsonl").examples)
    assert decode(tokens.rejected).endswith("dog</s>")


def _line(**value: Any) -> str:
    return json.dumps(value)


USER = {"role": "user", "content": "x"}
YES, NO = ({"role": "assistant", "content": c} for c in "yn")
BAD = {
    "examples": (_line(messages=[USER, YES]), "line 1 is no pair.*messages"),
    "equal answers": (
        _line(prompt="a", chosen="b", rejected="b ") + "\n",
        "line 1 has two answers",
    ),
    "equal messages": (_line(prompt=[USER], chosen=[YES], rejected=[YES]), "that are equal"),
    "an empty answer": (_line(prompt="a", chosen="b", rejected=" "), "an empty rejected"),
    "an empty prompt": (_line(prompt="", chosen="b", rejected="c"), "an empty prompt"),
    "a number": (_line(prompt="a", chosen=1, rejected="c"), "a chosen that is no text"),
    "no prompt": (_line(chosen=[USER, YES], rejected=[YES, NO]), "differ before their last"),
    "two answers": (_line(prompt=[USER], chosen=[YES, YES], rejected=[NO]), "of 2 messages"),
    "the user answers": (_line(prompt=[USER], chosen=[USER], rejected=[NO]), "of the role user"),
    "no question": (_line(prompt=[YES], chosen=[YES], rejected=[NO]), "ends with the assistant"),
    "half of OpenAI": (
        _line(input={"messages": [USER]}, preferred_output=[YES]),
        "has no non_pref",
    ),
    "one side": (_line(prompt="a", chosen="b"), "keys prompt, chosen"),
}


@pytest.mark.parametrize("name", BAD)
def test_lines_that_are_no_pair_are_refused(home: Path, tmp_path: Path, name: str) -> None:
    text, words = BAD[name]
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(UsageError, match=words):
        kanna.adapt(home / "source", tmp_path / "d.jsonl", tmp_path / "out", objective="dpo")
    assert not (tmp_path / "out").exists()


def test_pairs_that_are_cut_to_nothing_are_counted(home: Path, tmp_path: Path) -> None:
    chats = tokenizer_of(home, most=24)
    alike = {"prompt": "Say", "chosen": " fox" * 40 + " dog", "rejected": " fox" * 40 + " time"}
    lines = [json.dumps(one) for one in (alike, alike | {"chosen": " dog"})]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    assert len(chats.pairs(preferences.read(tmp_path / "d.jsonl").examples)) == 1
    assert (chats.unlearned, chats.cut) == (1, 2)
    with pytest.raises(UsageError, match="--objective|no pair|within 8 tokens"):
        train(home, "short", "dpo", max_length=8)


def test_a_loss_that_is_no_number_stops_the_run(home: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    for path in (home / "source").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = load_file(tmp_path / "model.safetensors")
    values["model.norm.weight"] = values["model.norm.weight"] * float("nan")
    save_file(values, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(KannaError, match="no number"):
        kanna.adapt(tmp_path, home / "pairs.jsonl", home / "nan", objective="dpo", **fast())
    assert not (home / "nan").exists()


def test_the_command_says_what_is_preferred(home: Path) -> None:
    words = ["adapt", str(home / "source"), "--data", str(home / "pairs.jsonl"), "-o"]
    more = ["--objective", "dpo", "--steps", "1", "--rank", "2", "--threads", "1"]
    run = CliRunner().invoke(cli, [*words, str(home / "told"), *more])
    assert run.exit_code == 0, run.output
    assert "Preferred answer likelier" in run.output and "Margin per token" in run.output
    run = CliRunner().invoke(cli, [*words, str(home / "x"), "--steps", "1"])
    assert run.exit_code == 2 and "--objective dpo" in run.output
