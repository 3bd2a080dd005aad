"""`kanna adapt --draft`: how many guesses are taken before and after, held to llama.cpp's."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters, tiny_models
from helpers.draft_heads import TorchHead, mostly_right

import kanna
from kanna._util.progress import Silent
from kanna.adapters import DRAFT_HEAD, open_adapter
from kanna.benchmark import draft_prompts
from kanna.benchmark.guesses import OWN_HEAD
from kanna.cli.main import cli
from kanna.errors import FormatError, UsageError
from kanna.training.checkpoints import Checkpoints
from kanna.training.drafts import DRAFT_MODEL, head_training
from kanna.training.drafts.head_training import HeadTraining
from kanna.training.drafts.own_head import OwnHead, tensors_of
from kanna.training.drafts.phase import PROMPTS
from kanna.training.drafts.written_text import WrittenText, prompts
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import UNLEARNED, TokenizedExample, TokenizedPair

needs.package("trl")
needs.package("peft")

SETTINGS: dict[str, Any] = {
    "threads": 1,
    "rank": 4,
    "learning_rate": 5e-3,
    "steps": 16,
    "samples": 0,
    "verify": False,
}

# A checkpoint after every step, and steps that take long enough to be killed in one.
CHILD = """
import json, sys, time
import kanna
from kanna.training import checkpoints, watching
from kanna.training.drafts import head_training
watching.EVERY = head_training.EVERY = 0.0
complete = checkpoints.Checkpoints.complete
checkpoints.Checkpoints.complete = lambda *a: (complete(*a), time.sleep(0.05))[0]
kanna.adapt(sys.argv[1], "data.jsonl", "killed", **json.loads(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3.5 whose head is often right, and a tiny Llama."""
    folder = tmp_path_factory.mktemp("drafts")
    mostly_right(folder / "source", tiny_models.make("qwen35", folder / "source"))
    tiny_adapters.base("llama", folder / "llama")
    tiny_adapters.words_to_say(folder / "data.jsonl", 30)
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> kanna.AdaptResult:
    out = home / "out"
    data = home / "data.jsonl"
    return kanna.adapt(home / "source", data, out, draft=OWN_HEAD, retrain_draft=True, **SETTINGS)


def test_a_fine_tune_costs_its_head_guesses_and_the_report_says_so(
    home: Path, trained: kanna.AdaptResult
) -> None:
    base, tuned = trained.draft["base"], trained.draft["tuned"]
    assert base["acceptance"] > 0.3 and tuned["acceptance"] < 0.5 * base["acceptance"]
    again = trained.draft["retrained"]
    assert trained.draft["kept"] and again["acceptance"] > 0.5 * base["acceptance"]
    assert any("trained on for 16 steps" in note for note in trained.notes)
    assert "Guesses of mtp taken" in dict(trained.facts())
    page = (home / "out" / "report.html").read_text()
    assert "Speculative decoding" in page and f"{base['acceptance']:.1%}" in page
    assert json.loads((home / "out" / "report.json").read_text())["draft"] == trained.draft
    asked = draft_prompts.read(home / "out" / PROMPTS)
    assert len(asked) == trained.draft["prompts"] == 3 and all(p.ids for p in asked)


def test_llama_cpp_counts_the_same(home: Path, trained: kanna.AdaptResult, tmp_path: Path) -> None:
    needs.llama_cpp()
    names = ("base", "tuned", "retrained")
    paths = [tmp_path / f"{name}.gguf" for name in names]
    plain = tmp_path / "adapter"
    shutil.copytree(home / "out", plain)
    (plain / DRAFT_HEAD).unlink()
    kanna.convert(home / "source", paths[0], preset="F32", threads=1)
    for folder, path in zip((plain, home / "out"), paths[1:], strict=True):
        kanna.merge(home / "source", folder, path, preset="F32", threads=1)
    rows = kanna.bench(
        paths,
        prompt_tokens=8,
        gen_tokens=8,
        repeat=1,
        threads=1,
        draft=OWN_HEAD,
        draft_prompts=home / "out" / PROMPTS,
    )
    for row, side in zip(rows, names, strict=True):
        ours, theirs = trained.draft[side], row.draft or {}
        print(f"MEASURE {side} torch {ours['acceptance']:.3f} llama.cpp {theirs['acceptance']:.3f}")
        # Keys and values in 16 bits may turn a near tie, and all that follows it.
        assert abs(ours["drafted"] - theirs["drafted"]) <= 8
        assert theirs["acceptance"] == pytest.approx(ours["acceptance"], abs=0.08)


def test_an_adapter_alone_leaves_the_head_out(home: Path, trained: kanna.AdaptResult) -> None:
    assert trained.draft["kept"]
    assert set(open_adapter(home / "out").draft_head) == set(
        tensors_of(kanna.open_source(home / "source"))
    )
    done = kanna.convert(
        home / "source", adapter=home / "out", format="gguf", dry_run=True, threads=1
    )
    assert any("head for further tokens is left out" in note for note in done.notes)


def test_a_head_that_was_interrupted_goes_on_to_the_same_values(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        home / "source", dtype=torch.float32
    ).requires_grad_(False)
    texts = [
        TokenizedExample(
            ids=[*range(at, at + 12)], labels=[UNLEARNED] * 4 + [*range(at + 4, at + 12)]
        )
        for at in range(3, 9)
    ]

    def training(name: str) -> tuple[HeadTraining, OwnHead]:
        one = TorchHead(home / "source", model)
        one.head.modules["fc"].weight.detach().neg_()  # nothing that it guesses is right
        run = HeadTraining(
            head=one.head,
            target=one.target,
            training=texts[:5],
            held_out=texts[5:],
            settings=TrainingSettings(steps=6, batch=2),
            checkpoints=Checkpoints(tmp_path / name),
            progress=Silent(),
        )
        return run, one.head

    whole, head = training("whole")
    with whole.checkpoints:
        done = whole.run()
    assert done.best_loss < done.base_loss and done.steps == 6
    monkeypatch.setattr(head_training, "EVERY", 0.0)
    step = HeadTraining._step  # pyright: ignore[reportPrivateUsage]

    def ended(run: HeadTraining, optimizer: Any, number: int, steps: int) -> None:
        if number == 4:
            raise KeyboardInterrupt
        step(run, optimizer, number, steps)

    with monkeypatch.context() as patched:
        patched.setattr(HeadTraining, "_step", ended)
        begun, _ = training("again")
        with pytest.raises(KeyboardInterrupt), begun.checkpoints:
            begun.run()
    again, other = training("again")
    with again.checkpoints:
        resumed = again.run()
    assert resumed.resumed == 4 and resumed.best_loss == done.best_loss
    for name, value in head.state().items():
        assert torch.equal(value, other.state()[name]), name


def test_something_must_draft_to_be_trained_on(home: Path) -> None:
    with pytest.raises(UsageError, match="without --draft"):
        kanna.adapt(home / "llama", home / "data.jsonl", home / "no", retrain_draft=True)


def test_every_guess_at_once_is_every_guess_in_turn(home: Path) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        home / "source", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    one = TorchHead(home / "source", model)
    written = one.target.write([draft_prompts.DraftPrompt(ids=[1, 50, 60], tokens=20)], Silent())
    [text] = written
    assert isinstance(text, WrittenText) and len(text.ids) == 23 and text.first == 3
    with torch.no_grad():
        right = one.head.guessed(text, 4)
    turn = 0
    for known in range(3, 20):
        guessed = one.guesses(text.ids[:known], one.states(text.ids), 4)
        wanted = text.ids[known : known + 4]
        held = [*(a == b for a, b in zip(guessed, wanted, strict=False)), False].index(False)
        assert [*right[known - 1], False].index(False) >= held
        assert [*right[known - 1][: len(wanted)], False].index(False) == held
        turn += held
    assert turn > 5


@pytest.fixture(scope="module")
def followed(home: Path) -> kanna.AdaptResult:
    """A draft that is the base itself, and follows the tuned model."""
    small = home / "llama"
    settings: dict[str, Any] = SETTINGS | {"draft": small, "retrain_draft": True}
    return kanna.adapt(small, home / "data.jsonl", home / "beside", **settings)


def test_a_draft_model_follows_the_tuned_one(home: Path, followed: kanna.AdaptResult) -> None:
    """All of its guesses are taken before, few after, many when it follows."""
    done, out = followed, home / "beside"
    sides = {side: done.draft[side]["acceptance"] for side in ("base", "tuned", "retrained")}
    assert done.draft["guesser"] == str(home / "llama") and sides["base"] == 1.0
    assert sides["tuned"] < 0.5 < sides["retrained"] and done.draft["kept"]
    assert any("is in the folder draft-model beside" in note for note in done.notes)
    draft = kanna.open_source(out / DRAFT_MODEL)
    assert draft.kind == "hf" and (out / PROMPTS).is_file()
    needs.llama_cpp()
    for side, figures in done.draft["runtime"].items():
        assert figures["acceptance"] == pytest.approx(sides[side], abs=0.08)
    assert set(done.draft["runtime"]) == {"tuned", "retrained"}
    assert "drafter retrained, in llama.cpp" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "draft", "whole", "name"),
    [
        ("llama", "llama", "beside", f"{DRAFT_MODEL}/model.safetensors"),
        ("source", OWN_HEAD, "out", DRAFT_HEAD),
    ],
)
def test_a_drafter_whose_training_is_killed_comes_to_the_same_values(
    home: Path, source: str, draft: str, whole: str, name: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue({"beside": "followed", "out": "trained"}[whole])
    settings: dict[str, Any] = SETTINGS | {"draft": draft, "retrain_draft": True}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, source, json.dumps(settings)],
        cwd=home,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    last, until = random.randint(1, 14), time.monotonic() + 400
    print(f"killed after step {last} of what drafts")
    while time.monotonic() < until and last > max(
        (int(p.name[9:]) for p in home.glob(".killed.unfinished-*-drafter-*/complete-*")), default=0
    ):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (home / "killed").exists()
    if draft != OWN_HEAD:
        settings["draft"] = home / draft
    done = kanna.adapt(home / source, home / "data.jsonl", home / "killed", **settings)
    assert any("went on after step" in note for note in done.notes) and done.draft["kept"]
    for file in (name, "adapter_model.safetensors"):
        assert (home / "killed" / file).read_bytes() == (home / whole / file).read_bytes()
    assert not list(home.glob(".killed*"))
    shutil.rmtree(home / "killed")


def test_what_cannot_draft_is_refused_before_anything_is_learned(home: Path) -> None:
    data = home / "data.jsonl"
    with pytest.raises(UsageError, match="no head of its own"):
        kanna.adapt(home / "llama", data, home / "no", draft=OWN_HEAD, **SETTINGS)
    tiny_models.make("smollm", home / "other")
    with pytest.raises(UsageError, match="the draft model .* has another vocabulary"):
        kanna.adapt(home / "llama", data, home / "no", draft=home / "other", **SETTINGS)
    run = CliRunner().invoke(
        cli, ["adapt", str(home / "llama"), "--data", str(data), "-o", "no", "--draft", "mtp"]
    )
    assert run.exit_code == 2 and "--draft MODEL takes a small model" in run.stderr
    assert not (home / "no").exists() and not list(home.glob(".no.unfinished-*"))


def test_prompts_are_what_comes_before_held_out_answers() -> None:
    labels = [UNLEARNED] * 10 + [7, 8, 9]
    answer = TokenizedExample(ids=[*range(10), 7, 8, 9], labels=labels)
    text = TokenizedExample(ids=[*range(120)], labels=[*range(120)])
    pair = TokenizedPair(prompt=[*range(9)], chosen=[5, 6], rejected=[4])
    made = prompts([answer, text, pair])
    assert [(len(p.ids), p.tokens) for p in made] == [(10, 3), (60, 48), (9, 2)]
    assert len(prompts([text] * 40)) == 11  # about 512 tokens in all


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no prompt"),
        ("{oops", "line 1 is not JSON"),
        ('{"prompt": "a"}\n[1]', "line 2 is no prompt"),
        ('{"prompt": "a", "ids": [1]}', "line 1 is no prompt"),
        ('{"prompt": " "}', "an empty prompt"),
        ('{"ids": [-1]}', "has ids"),
        ('{"prompt": "a", "tokens": 0}', "has tokens"),
    ],
)
def test_prompts_that_are_none_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises((UsageError, FormatError), match=words):
        draft_prompts.read(path)
    with pytest.raises(UsageError, match="there is no file"):
        draft_prompts.read(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match="--draft-prompts without"):
        kanna.bench(path, draft_prompts=path)


def test_a_prompt_of_tokens_that_a_model_has_not_is_refused() -> None:
    with pytest.raises(UsageError, match="has the token 512"):
        draft_prompts.DraftPrompt(ids=[512]).tokenized(lambda *_: [], 512)
    assert draft_prompts.DraftPrompt(ids=[511]).tokenized(lambda *_: [], 512) == [511]
