"""A step that does not fit: examples are read in smaller parts, and the same is learned."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters
from helpers.disturbances import small_disk

import kanna
from kanna._util.progress import Silent
from kanna.cli.main import cli
from kanna.errors import KannaError
from kanna.training import learned, memory, watching
from kanna.training.memory import MicroBatch
from kanna.training.settings import TrainingSettings

needs.package("trl")


def fast(**more: Any) -> dict[str, Any]:
    settings = {"threads": 1, "rank": 4, "learning_rate": 5e-3, "steps": 6, "batch": 6}
    return {**settings, "samples": 0, "verify": False, **more}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    tiny_adapters.base("llama", folder / "source")
    tiny_adapters.words_to_say(folder / "data.jsonl")
    return folder


def _holding(most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the model fail, as PyTorch does without memory, for more than so many examples."""
    import transformers

    forward = transformers.LlamaModel.forward
    seen: list[int] = []

    def held(self: Any, *given: Any, **more: Any) -> Any:
        rows = more["input_ids"] if "input_ids" in more else given[0]
        seen.append(len(rows))
        if self.training and len(rows) > most:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 8589934592 bytes."
            )
        return forward(self, *given, **more)

    monkeypatch.setattr(transformers.LlamaModel, "forward", held)
    return seen


def test_a_step_that_does_not_fit_is_parted_and_learns_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kanna.adapt(home / "source", home / "data.jsonl", home / "whole", **fast())
    seen = _holding(3, monkeypatch)
    parted = kanna.adapt(home / "source", home / "data.jsonl", home / "parted", **fast())
    assert {6, 3} <= set(seen)
    assert any("3 of the 6 examples of a step are read together" in note for note in parted.notes)
    assert not any("for want of memory" in note for note in whole.notes)
    assert parted.steps == whole.steps
    assert parted.tuned_loss == pytest.approx(whole.tuned_loss, rel=1e-3)


def test_what_does_not_fit_at_all_says_what_would(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _holding(0, monkeypatch)
    with pytest.raises(KannaError, match="not enough memory for a step") as failed:
        kanna.adapt(home / "source", home / "data.jsonl", home / "none", **fast())
    for way_out in ("--max-length", "--rank", "--base-bits"):
        assert way_out in failed.value.todo
    assert [p.name for p in home.iterdir() if "none" in p.name] == []


@pytest.mark.parametrize(("free", "together"), [(1 << 40, 6), (1 << 22, 1), (0, 1)])
def test_too_little_free_memory_is_seen_and_told_before_the_first_step(
    home: Path, monkeypatch: pytest.MonkeyPatch, free: int, together: int
) -> None:
    import transformers

    class Told(Silent):
        lines: list[str] = []

        def remark(self, text: str) -> None:
            self.lines.append(text)

    def measured(device: str) -> int:
        return free

    monkeypatch.setattr(memory, "free_bytes", measured)
    model = transformers.AutoModelForCausalLM.from_pretrained(home / "source")
    told, settings = Told(), TrainingSettings(batch=6, rank=4)
    step, needed = memory.fitting(model, settings, 64, told)
    assert step.together == together
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    beside = needed - memory.work_bytes(model, settings, step, 64)
    assert weights <= beside < 1.01 * weights  # buffers count, too
    assert "Training takes about" in told.lines[-1]
    assert ("may not fit" in told.lines[-1]) == (free == 0)


def test_steps_get_lighter_down_to_one_example() -> None:
    step = MicroBatch.of(TrainingSettings(batch=6))
    made = [step]
    while (lighter := made[-1].lighter()) is not None:
        made.append(lighter)
    assert [(m.together, m.recomputes) for m in made] == [
        (6, False),
        (3, False),
        (1, False),
        (1, True),
    ]
    assert all(m.batch == 6 and 6 % m.together == 0 for m in made)
    assert memory.is_full(MemoryError()) and not memory.is_full(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("look", "step", "steps", "every"),
    [
        (0, 100.0, 80, 10),  # nothing is read: an eighth of the run
        (1000, 400.0, 400, 50),
        (1000, 40.0, 400, 50),  # 8 looks: 8000 of 40000 tokens, exactly a fifth
        (1000, 20.0, 400, 100),
        (6400, 160.0, 20, 20),  # none fits: the last one alone
    ],
)
def test_looks_take_a_fifth_of_the_time_at_most(
    look: int, step: float, steps: int, every: int
) -> None:
    assert watching.interval(steps, None, look=look, step=step) == every
    if every < steps:
        looks = steps // every
        assert looks * look <= watching.LOOKS_SHARE * (looks * look + 2 * step * steps)


def test_a_disk_that_is_full_leaves_nothing_under_the_final_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(home / "full"))

    monkeypatch.setattr(learned, "write", full)
    data, out = str(home / "data.jsonl"), str(home / "full")
    asked = ["adapt", str(home / "source"), "--data", data, "-o", out, "--steps", "1"]
    run = CliRunner().invoke(cli, [*asked, "--rank", "2", "--threads", "1", "--samples", "0"])
    assert run.exit_code == 1 and "space" in run.stderr and "Traceback" not in run.stderr
    assert [p.name for p in home.iterdir() if "full" in p.name] == []


def test_an_adapter_that_has_no_room_on_its_disk_leaves_nothing(home: Path) -> None:
    """A disk of 300 kB, and three times as many bytes of values."""
    asked = ["adapt", str(home / "source"), "--data", str(home / "data.jsonl"), "--steps", "1"]
    few = ["--samples", "0", "--threads", "1", "--no-verify"]
    with small_disk(home / "small", "300k") as disk:
        run = CliRunner().invoke(cli, [*asked, "-o", str(disk / "out"), *few])
        assert run.exit_code == 1 and "space" in run.stderr, run.stderr
        assert "Traceback" not in run.stderr and not list(disk.iterdir())


def test_a_short_run_with_much_to_look_at_looks_at_its_ends(home: Path) -> None:
    done = kanna.adapt(home / "source", home / "data.jsonl", home / "short", **fast(batch=1))
    assert [h["step"] for h in done.history if "held_out_loss" in h] == [6]
    assert 0 < done.costs["looking_seconds"] < done.costs["training_seconds"]
