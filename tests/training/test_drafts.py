"""`kanna adapt --draft`: how many guesses are taken before and after, held to llama.cpp's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters, tiny_models
from helpers.draft_heads import TorchHead, mostly_right

import kanna
from kanna._util.progress import Silent
from kanna.benchmark import OWN_HEAD, draft_prompts
from kanna.cli.main import cli
from kanna.errors import FormatError, UsageError
from kanna.training.drafts.phase import PROMPTS
from kanna.training.drafts.written_text import WrittenText, prompts
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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3.5 whose head is often right, and a tiny Llama."""
    folder = tmp_path_factory.mktemp("drafts")
    mostly_right(folder / "source", tiny_models.make("qwen35", folder / "source"))
    tiny_adapters.base("llama", folder / "llama")
    tiny_adapters.words_to_say(folder / "data.jsonl")
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> kanna.AdaptResult:
    out = home / "out"
    return kanna.adapt(home / "source", home / "data.jsonl", out, draft=OWN_HEAD, **SETTINGS)


def test_a_fine_tune_costs_its_head_guesses_and_the_report_says_so(
    home: Path, trained: kanna.AdaptResult
) -> None:
    base, tuned = trained.draft["base"], trained.draft["tuned"]
    assert base["acceptance"] > 0.3 and tuned["acceptance"] < 0.5 * base["acceptance"]
    assert any("speculative decoding is slower" in note for note in trained.notes)
    assert "Guesses of mtp taken" in dict(trained.facts())
    page = (home / "out" / "report.html").read_text()
    assert "Speculative decoding" in page and f"{base['acceptance']:.1%}" in page
    assert json.loads((home / "out" / "report.json").read_text())["draft"] == trained.draft
    asked = draft_prompts.read(home / "out" / PROMPTS)
    assert len(asked) == trained.draft["prompts"] == 6 and all(p.ids for p in asked)


def test_llama_cpp_counts_the_same(home: Path, trained: kanna.AdaptResult, tmp_path: Path) -> None:
    needs.llama_cpp()
    paths = [tmp_path / f"{name}.gguf" for name in ("base", "tuned")]
    kanna.convert(home / "source", paths[0], preset="F32", threads=1)
    kanna.merge(home / "source", home / "out", paths[1], preset="F32", threads=1)
    rows = kanna.bench(
        paths,
        prompt_tokens=8,
        gen_tokens=8,
        repeat=1,
        threads=1,
        draft=OWN_HEAD,
        draft_prompts=home / "out" / PROMPTS,
    )
    for row, side in zip(rows, ("base", "tuned"), strict=True):
        ours, theirs = trained.draft[side], row.draft or {}
        print(f"MEASURE {side} torch {ours['acceptance']:.3f} llama.cpp {theirs['acceptance']:.3f}")
        # Keys and values in 16 bits may turn a near tie, and all that follows it.
        assert abs(ours["drafted"] - theirs["drafted"]) <= 8
        assert theirs["acceptance"] == pytest.approx(ours["acceptance"], abs=0.08)


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


def test_a_draft_model_is_counted_too(home: Path) -> None:
    """A draft that is the base itself: all is taken before, little after."""
    small = home / "llama"
    done = kanna.adapt(small, home / "data.jsonl", home / "beside", draft=small, **SETTINGS)
    assert done.draft["guesser"] == str(small)
    assert done.draft["base"]["acceptance"] == 1.0
    assert done.draft["tuned"]["acceptance"] < 0.5


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
