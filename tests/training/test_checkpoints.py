"""`kanna adapt` after kill -9: the same command goes on, and comes to the same weights."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import needs, tiny_adapters

import kanna
from kanna.errors import KannaError
from kanna.training import checkpoints, watching
from kanna.training.run import TrainingRun

needs.package("trl")

SETTINGS: dict[str, Any] = {
    "threads": 1,
    "rank": 4,
    "learning_rate": 5e-3,
    "steps": 24,
    "batch": 2,
    "samples": 0,
    "verify": False,
}
# A checkpoint after every step, and steps that take long enough to be killed in one.
CHILD = """
import json, sys, time
import kanna
from kanna.training import watching
watching.EVERY = 0.0
look = watching.Watcher.look
watching.Watcher.look = lambda *a: (time.sleep(0.3), look(*a))[1]
kanna.adapt("source", "chats.jsonl", "out", **json.loads(sys.argv[1]))
"""


WORDS = ["fox", "dog", "once", "time"]
SLOW = [("dpo", None), ("orpo", None), ("sft", 4)]
BACKENDS = {"torch": "adapter_model.safetensors", "mlx": "adapters.safetensors"}


def write_data(folder: Path, objective: str) -> Path:
    asked = [(f"Say {WORDS[i % 4]} {i}", f" {WORDS[i % 4]}" * 3) for i in range(40)]
    if objective == "sft":
        lines = [{"prompt": prompt, "completion": answer} for prompt, answer in asked]
    else:
        lines = [{"prompt": p, "chosen": a, "rejected": " brown"} for p, a in asked]
    path = folder / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tiny_adapters.base("llama", tmp_path / "source")
    write_data(tmp_path, "sft")
    return tmp_path


@pytest.mark.parametrize(
    ("objective", "base_bits", "backend", "packing"),
    [
        ("sft", None, "torch", False),
        ("sft", None, "torch", True),
        ("sft", None, "mlx", None),
        *(pytest.param(*case, "torch", None, marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights(
    home: Path, objective: str, base_bits: int | None, backend: str, packing: bool | None
) -> None:
    needs.package({"mlx": "mlx_lm"}.get(backend, "torch"))
    write_data(home, objective)
    settings: dict[str, Any] = SETTINGS | {
        "objective": objective,
        "base_bits": base_bits,
        "backend": backend,
        "packing": packing,
    }
    whole = kanna.adapt(home / "source", home / "chats.jsonl", home / "whole", **settings)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(settings)],
        cwd=home,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    until, last = time.monotonic() + 400, random.randint(3, 20)
    print(f"killed after step {last}")
    while time.monotonic() < until and last > max(
        (int(p.name[9:]) for p in home.glob(".out.unfinished-*/complete-*")), default=0
    ):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (home / "out").exists()
    [folder] = home.glob(".out.unfinished-*")
    (folder / "checkpoint-99").mkdir()  # what was being written when it was killed
    # A base is keyed by its bytes: only the paths differ from those of the child.
    done = kanna.adapt(home / "source", home / "chats.jsonl", home / "out", **settings)
    [note] = [note for note in done.notes if "went on after step" in note]
    assert int(note.split("after step ")[1].split()[0].rstrip(",;")) >= last
    one, two = (home / name / BACKENDS[backend] for name in ("whole", "out"))
    assert one.read_bytes() == two.read_bytes()
    assert (done.steps, done.best_step) == (whole.steps, whole.best_step)
    assert (done.base_loss, done.tuned_loss) == (whole.base_loss, whole.tuned_loss)
    assert (done.base_figures, done.tuned_figures) == (whole.base_figures, whole.tuned_figures)
    losses = [[h for h in run.history if "loss" in h] for run in (done, whole)]
    assert losses[0] == losses[1]
    assert not list(home.glob(".out.unfinished-*"))


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_interrupted_pairs_go_on_to_the_same_weights(
    home: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(home, objective)
    settings: dict[str, Any] = SETTINGS | {"objective": objective, "steps": 8}
    whole = kanna.adapt(home / "source", data, home / "whole", **settings)
    monkeypatch.setattr(watching, "EVERY", 0.0)
    stepped = watching.Watcher.stepped

    def ended(watcher: watching.Watcher, step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt
        stepped(watcher, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watching.Watcher, "stepped", ended)
        kanna.adapt(home / "source", data, home / "out", **settings)
    done = kanna.adapt(home / "source", data, home / "out", **settings)
    assert any("went on after step 5" in note for note in done.notes)
    one, two = (home / name / "adapter_model.safetensors" for name in ("whole", "out"))
    assert one.read_bytes() == two.read_bytes()
    assert (done.base_figures, done.tuned_figures) == (whole.base_figures, whole.tuned_figures)


def test_other_settings_begin_anew(home: Path) -> None:
    few: dict[str, Any] = SETTINGS | {"steps": 2}
    kanna.adapt(home / "source", home / "chats.jsonl", home / "one", **few)
    again = kanna.adapt(home / "source", home / "chats.jsonl", home / "two", **few)
    assert not any("went on" in note for note in again.notes)
    assert not [p for p in home.iterdir() if "unfinished" in p.name]


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    kept = checkpoints.Checkpoints(tmp_path / "c")
    kept.prepare()
    for step in (3, 12):
        made = tmp_path / "c" / f"checkpoint-{step}"
        made.mkdir()
        (made / "optimizer.pt").write_bytes(b"x")
        kept.complete(made, TrainingRun(steps=step, base_loss=2.0))
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["complete-12"]
    (tmp_path / "c" / "complete-40").mkdir()  # without its last file
    (tmp_path / "c" / "checkpoint-41").mkdir()
    latest = kept.latest()
    assert latest is not None and latest.name == "complete-12"
    kept.prepare()
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["complete-12"]
    run, path = kept.begin()
    assert (run.steps, run.resumed, run.base_loss, path) == (12, 12, 2.0, latest)
    with pytest.raises(KeyboardInterrupt), kept:
        raise KeyboardInterrupt
    assert latest.is_dir()
    with pytest.raises(KannaError), kept:
        raise KannaError("the loss is no number")
    assert not kept.folder.exists()
