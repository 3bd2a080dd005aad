"""`kanna adapt --teacher`: half of the loss is the divergence from a larger model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_adapters, tiny_models

import kanna
from kanna.errors import UsageError
from kanna.training import watching

pytest.importorskip("trl")
torch = pytest.importorskip("torch")

from kanna.training import teacher as teachers  # noqa: E402 - needs torch
from kanna.training.tokens import UNLEARNED, TokenizedExample  # noqa: E402 - needs torch

SETTINGS: dict[str, Any] = {
    "threads": 1,
    "rank": 4,
    "samples": 0,
    "learning_rate": 5e-3,
    "verify": False,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, and a teacher of the same vocabulary that knows the data."""
    home = tmp_path_factory.mktemp("distill")
    tiny_adapters.base("llama", home / "source")
    tiny_adapters.words_to_say(home / "chats.jsonl")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny_models, "SMALL", tiny_models.SMALL | {"intermediate_size": 640})
        tiny_models.make("llama", home / "larger", seed=1)
    kanna.adapt(home / "larger", home / "chats.jsonl", home / "knows", steps=24, **SETTINGS)
    kanna.merge(home / "larger", home / "knows", home / "teacher", format="safetensors", threads=1)
    return home


def adapt(home: Path, name: str, **more: Any) -> kanna.AdaptResult:
    data = home / "chats.jsonl"
    return kanna.adapt(home / "source", data, home / name, **(SETTINGS | {"steps": 16} | more))


def test_it_comes_nearer_to_the_teacher_and_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = watching.Watcher.stepped

    def ended(watcher: watching.Watcher, step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt
        stepped(watcher, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watching.Watcher, "stepped", ended)
        adapt(home, "out", teacher=home / "teacher")
    with monkeypatch.context() as patched:
        patched.setattr(teachers, "_run", lambda *_: pytest.fail("the teacher was asked again"))
        result = adapt(home, "out", teacher=home / "teacher")
    before, after = result.base_figures, result.tuned_figures
    assert result.ok and result.objective == "distill"
    assert after["teacher_kl"] < 0.5 * before["teacher_kl"]
    assert after["domain_loss"] < before["domain_loss"]
    for loss, figures in ((result.base_loss, before), (result.tuned_loss, after)):
        mean = 0.5 * (figures["domain_loss"] + figures["teacher_kl"])
        assert loss == pytest.approx(mean, rel=1e-6)
    assert result.settings["teacher"] == str(home / "teacher")
    assert not list(home.glob(".out.unfinished-*"))
    assert "KL to the teacher" in (home / "out" / "report.html").read_text()
    assert "KL to the teacher" in dict(result.facts())


def test_another_vocabulary_is_refused(home: Path) -> None:
    tiny_models.make("smollm", home / "other")
    with pytest.raises(UsageError, match="has another vocabulary"):
        adapt(home, "no", teacher=home / "other")
    assert not (home / "no").exists() and not list(home.glob(".no.unfinished-*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "distill"}, "without a teacher"),
        ({"objective": "dpo", "teacher": "teacher"}, "learns from pairs"),
    ],
)
def test_a_teacher_goes_with_answers(home: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        adapt(home, "no", **options)


def test_what_is_kept_of_a_teacher_is_what_it_says(home: Path, tmp_path: Path) -> None:
    teacher = teachers.TeacherModel(source=kanna.open_source(home / "teacher"), device="cpu")
    one = TokenizedExample(ids=[1, 20, 30, 40, 50], labels=[UNLEARNED] * 3 + [40, 50])
    two = TokenizedExample(ids=[1, 21, 31], labels=[1, 21, 31])
    from kanna._util.progress import Silent

    [[first], [second]] = teacher.teach([[one], [two]], tmp_path / "t.bin", Silent())
    model = teacher._model()
    for taught, places in ((first, [2, 3]), (second, [0, 1])):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([taught.ids])).logits[0, places].float()
        ids, logp = taught.rows()
        wanted = torch.log_softmax(logits, -1).topk(teachers.K)
        assert (ids == wanted.indices.numpy()).all()
        assert logp == pytest.approx(wanted.values.numpy(), abs=1e-5)
    assert (tmp_path / "t.bin").stat().st_size == 4 * 8 * teachers.K


def test_the_divergence_is_that_of_kept_tokens_and_the_rest() -> None:
    torch.manual_seed(0)
    theirs, ours = torch.randn(7, 40) * 2, torch.randn(7, 40) * 2
    p, q = torch.log_softmax(theirs, -1), torch.log_softmax(ours, -1)
    whole = (p.exp() * (p - q)).sum(-1)
    full = p.topk(40)
    assert torch.allclose(teachers.divergence(ours, full.indices, full.values), whole, atol=1e-5)
    few = p.topk(8)
    part = teachers.divergence(ours, few.indices, few.values)
    p8, q8 = few.values.exp(), q.gather(-1, few.indices).exp()
    rest = (1 - p8.sum(-1)), (1 - q8.sum(-1))
    wanted = (p8 * (p8 / q8).log()).sum(-1) + rest[0] * (rest[0] / rest[1]).log()
    assert torch.allclose(part, wanted, atol=1e-5) and bool((part <= whole + 1e-6).all())
    padded = torch.cat([few.values, torch.full((7, 3), -torch.inf)], -1)
    filled = torch.cat([few.indices, torch.zeros(7, 3, dtype=torch.long)], -1)
    assert torch.allclose(teachers.divergence(ours, filled, padded), part)
    same = teachers.divergence(theirs, few.indices, few.values)
    assert torch.allclose(same, torch.zeros(7), atol=1e-6)
