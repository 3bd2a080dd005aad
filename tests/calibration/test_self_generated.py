"""Text sampled from a model itself.

Prompt seeds, the true distribution, kept, resumed and used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs
from helpers.calibrating import WINDOW, Stops

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import self_generated, statistics
from kanna.calibration.prompt_seeds import (
    CHAT,
    QUESTION,
    TEXT,
    ChatSeed,
    PromptSeeds,
    prompt_seeds,
    writers,
)
from kanna.cli.main import cli
from kanna.errors import KannaError, UsageError
from kanna.model import Model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")
TOKENS = 4 * WINDOW


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small batches in a cache of their own."""
    monkeypatch.setattr(self_generated, "WINDOW", WINDOW)
    monkeypatch.setattr(self_generated, "BATCH", 4)
    monkeypatch.setattr(self_generated, "HELD_OUT_WINDOWS", 1)
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))


def loaded(source: Path) -> tuple[Any, Model]:
    opened = kanna.open_source(source)
    return opened, families.load_model(opened)


def resolve(
    source: Path, *given: str | Path, progress: Any = None, tokens: int = TOKENS
) -> self_generated.Calibration:
    opened, model = loaded(source)
    return self_generated.resolve(
        given, opened, model, tokens=tokens, device="cpu", progress=progress or Silent()
    )


def lines(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def tokenizer_of(model: Model) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(families.to_hf(model)[2]["tokenizer.json"].decode())


FOUND = PromptSeeds(
    first=[1],
    words=[[], [7, 8]],
    ends=frozenset([2]),
    chat=ChatSeed(
        before=[1, 10],
        between=[11, 12],
        ends_question=frozenset([2, 11]),
        ends_answer=frozenset([2]),
    ),
)


def test_a_conversation_takes_its_turns() -> None:
    """What is sampled is asked only where nothing is forced.

    An answer that ends begins another conversation.
    """
    (_, chat) = writers(FOUND, [0, 1])
    assert chat.kind == CHAT
    offered = [90, 91, 20, 21, 11, 92, 30, 11, 2, 93, 94, 22]
    #          forced   question     forced answer    forced again
    assert [chat.next(t) for t in offered] == [1, 10, 20, 21, 11, 12, 30, 11, 2, 1, 10, 22]
    assert chat.ids == [1, 10, 20, 21, 11, 12, 30, 11, 2, 1, 10, 22]
    # A question without an end is ended.
    for _ in range(QUESTION - 1):
        chat.next(23)
    assert [chat.next(99) for _ in range(3)] == [11, 12, 99]


def test_text_begins_again_where_it_ends() -> None:
    first, second = writers(FOUND, [0, 2])
    assert (first.kind, second.kind) == (TEXT, TEXT)
    assert [first.next(t) for t in (90, 20, 2, 91, 92, 93, 21)] == [1, 20, 2, 1, 7, 8, 21]
    assert [second.next(t) for t in (90, 91, 92, 20)] == [1, 7, 8, 20]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_prompt_seeds_of_real_tokenizers(name: str, tmp_path: Path) -> None:
    tiny_models.make(name, tmp_path / "model")
    model = loaded(tmp_path / "model")[1]
    tokenizer = tokenizer_of(model)
    found = prompt_seeds(model, tokenizer)
    assert found.kinds == (TEXT, CHAT) and found.chat is not None
    said = self_generated._text(tokenizer, found.chat.before)
    assert said.endswith("<|im_start|>user\n")
    # This template has no prompt for the answer: the question's end is all there is.
    assert tokenizer.id_to_token(found.chat.between[0]) == "<|im_end|>"
    assert found.chat.between[0] in found.chat.ends_answer
    model.metadata.pop("tokenizer.chat_template")
    assert prompt_seeds(model, tokenizer).kinds == (TEXT,)


def test_every_token_is_drawn_from_the_models_distribution(llama: Path) -> None:
    """With the cache, each token is what one pass over the sequence gives, drawn with the seed."""
    whole = tiny_models.make("llama", llama.parent / "again")
    opened, model = loaded(llama)
    seen: list[Any] = []
    real = self_generated.writers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_generated, "writers", lambda *a: seen.append(real(*a)) or seen[-1])
        self_generated.resolve(
            ["self"], opened, model, tokens=TOKENS, device="cpu", progress=Silent()
        )
    assert [len(batch) for batch in seen] == [4, 4]
    for number, batch in enumerate(seen):
        ids = torch.tensor([w.ids for w in batch])
        assert ids.shape == (4, WINDOW)
        with torch.no_grad():
            chances = torch.softmax(whole(input_ids=ids).logits, -1)
        generator = torch.Generator().manual_seed(self_generated.SEED + number)
        drawn = torch.stack(
            [torch.multinomial(chances[:, t], 1, generator=generator)[:, 0] for t in range(WINDOW)],
            1,
        )
        forced = (drawn[:, :-1] != ids[:, 1:]).float().mean().item()
        assert forced < 0.2, "only what is forced is not what was drawn"
        assert all(len(set(row.tolist())) > 20 for row in ids)


def test_it_is_kept_and_grows(llama: Path) -> None:
    first = resolve(llama, "self")
    assert first.paths is not None and [p.name for p in first.paths] == [
        "self-text.jsonl",
        "self-chat.jsonl",
    ]
    before = [p.read_bytes() for p in first.paths]
    assert "<|im_start|>user" in lines(first.paths[1])[0] and len(lines(first.paths[0])) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_generated, "Network", None)  # nothing is sampled again
        again = resolve(llama, "self")
    assert again == first and [p.read_bytes() for p in first.paths] == before
    more = resolve(llama, "self", tokens=2 * TOKENS)
    assert more.paths is not None and more.sampled == first.sampled
    assert more.paths[0].read_bytes().startswith(before[0]) and more.paths[0] != first.paths[0]
    # Elsewhere the same seeds give the same text.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KANNA_CACHE", str(llama.parent / "elsewhere"))
        other = resolve(llama, "self")
    assert other.paths is not None and [p.read_bytes() for p in other.paths] == before


def test_another_model_writes_another_text(llama: Path, tmp_path: Path) -> None:
    tiny_models.make("llama", tmp_path / "other", seed=1)
    first, second = resolve(llama, "self").paths, resolve(tmp_path / "other", "self").paths
    assert first is not None and second is not None and lines(first[0]) != lines(second[0])


class Ends(Stops):
    """Interrupted after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__("")
        self.left = steps

    def advance(self, amount: int, detail: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_interrupted_it_goes_on_with_the_batch_it_was_at(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resolve(llama, "self", progress=Ends(WINDOW + 60))
    assert [p.name for p in (tmp_path / "cache" / "sampled").rglob("*") if p.is_file()] == [
        "batch-000.json"
    ]
    steps = Ends(0)
    found = resolve(llama, "self", progress=steps)
    # Hashing the source reports, too; a second first batch would be WINDOW more.
    assert WINDOW <= -steps.left < WINDOW + 20
    assert found.paths is not None and len(lines(found.paths[0])) == 4


def test_a_model_is_calibrated_on_itself(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(tiny_models.TEXT * 10, encoding="utf-8")
    words = [
        "calibrate",
        str(llama),
        "-o",
        str(tmp_path / "stats"),
        "--tokens",
        "1024",
        "--calibration",
        "self",
    ]
    run = CliRunner().invoke(
        cli, [*words, "--calibration", str(tmp_path / "more.txt"), "--json", "--quiet"]
    )
    assert run.exit_code == 0, run.stderr
    said = json.loads(run.stdout)
    assert (
        set(said["domains"]) == {"self-text.jsonl", "self-chat.jsonl", "more.txt"}
        and said["held_tokens"] == 0
    )
    info = statistics.read(tmp_path / "stats").info
    assert info["text"]["name"] == "self-text.jsonl, self-chat.jsonl, more.txt"
    assert (
        info["text"]["sampled"]["seed"] == self_generated.SEED
        and info["text"]["sampled"]["temperature"] == 1.0
    )
    again = kanna.calibrate(
        llama, tmp_path / "stats", calibration=["self", tmp_path / "more.txt"], tokens=1024
    )
    assert again.reused
    assert not kanna.calibrate(llama, tmp_path / "stats", calibration="self", tokens=1024).reused


def test_optimize_takes_it(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    needs.llama_cpp()
    measure = import_module("kanna.optimization.measure")
    monkeypatch.setattr(measure, "CANDIDATES", ("q4_0", "q8_0", "f16"))
    monkeypatch.setattr(measure, "ROWS", 8)
    monkeypatch.setattr(self_generated, "HELD_OUT_WINDOWS", 3)
    (tmp_path / "text.txt").write_text(tiny_models.TEXT * 30, encoding="utf-8")
    options = ["--tokens", "1024", "--effort", "fast", "--windows", "1", "--threads", "1", "--text"]
    words = [
        "optimize",
        str(llama),
        "-o",
        str(tmp_path / "out"),
        "--bpw",
        "6",
        "--calibration",
        "self",
        *options,
    ]
    run = CliRunner().invoke(cli, [*words, str(tmp_path / "text.txt"), "--json", "--quiet"])
    assert run.exit_code == 0, run.stderr
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "--calibration self" in told["command"]
    assert set(told["optimize"]["domains"]["windows"]) == {"self-text.jsonl", "self-chat.jsonl"}
    assert not told["optimize"]["domains"]["fitted"], "more was sampled than was calibrated on"


def test_what_stands_in_the_way(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"absent\.txt"):
        resolve(llama, "self", tmp_path / "absent.txt")
    assert not (tmp_path / "cache" / "sampled").exists(), "before anything is sampled"
    from kanna.hardware.memory import memory

    little = type("Little", (), {"available": 1_000_000})
    monkeypatch.setattr(self_generated, "memory", lambda: little)
    with pytest.raises(KannaError, match="takes .* of memory, 1.0 MB are free"):
        resolve(llama, "self")
    monkeypatch.setattr(self_generated, "memory", memory)
    model = tiny_models.make("llama", tmp_path / "broken")
    with torch.no_grad():
        model.get_parameter("lm_head.weight")[5, 5] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(KannaError, match="the activations of the head are not numbers"):
        resolve(tmp_path / "broken", "self")
