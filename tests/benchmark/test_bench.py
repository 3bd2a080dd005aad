"""Benchmarks run in child processes and tell what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import needs

from kanna import convert, runtimes
from kanna._util.processes import ask
from kanna.benchmark import _parts, bench, drafting, file_bytes
from kanna.benchmark.child import memory
from kanna.errors import KannaError, UsageError
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import packages

needs_llama = pytest.mark.skipif(not RUNTIME.available().ok, reason="needs llama.cpp")


class Steps:
    """Records progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None]] = []
        self.count = 0

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        self.seen.append((stage, total))

    def advance(self, amount: int, detail: str = "") -> None:
        self.count += amount

    def finish(self) -> None:
        pass


@needs_llama
def test_what_is_measured_is_plausible() -> None:
    path, steps = packages.smollm2_gguf(), Steps()
    [one, two] = bench(
        [path, path], prompt_tokens=64, gen_tokens=8, repeat=2, threads=1, progress=steps
    )
    assert steps.seen == [("bench", 4)]
    assert steps.count == 4
    for row in (one, two):
        assert row.file_bytes == path.stat().st_size
        # Mapped weights, cache and buffers; the interpreter's own memory is not counted.
        assert 0.9 * row.file_bytes < row.peak_bytes < 3 * row.file_bytes
        assert row.memory["weights"] > 0.8 * row.file_bytes
        assert 0 < row.load_s < 30
        assert row.ttft_s == pytest.approx(64 / row.prompt_tps, rel=0.2)
        assert row.gen_tps > 1
        assert row.threads == 1
        low, high = row.spread["gen_tps"]
        assert low <= row.gen_tps <= high
    assert one.to_dict()["repeat"] == 4  # named twice, measured together


@needs_llama
def test_one_file_may_stand_alone() -> None:
    path = packages.smollm2_gguf()
    for given in (path, str(path)):
        [row] = bench(given, prompt_tokens=8, gen_tokens=2, repeat=1, threads=1)
        assert row.path == str(path)


@needs_llama
def test_what_takes_long_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = packages.smollm2_gguf(), Steps()
    monkeypatch.setattr(sys.modules[bench.__module__], "PATIENCE", 0.0)
    [row] = bench([path], prompt_tokens=8, gen_tokens=2, repeat=3, threads=1, progress=steps)
    assert row.repeat == 1 and steps.count == 3


@needs_llama
def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(KannaError, match=r"broken\.gguf"):
        bench([path], repeat=1)


KILLED = """
import os, signal, sys
from kanna._util.processes import answer
sys.exit(answer(lambda: os.kill(os.getpid(), signal.SIGKILL)))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_measurement_that_is_killed_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does where memory ran out, or a driver whose device is lost."""
    (tmp_path / "killed_child.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(KannaError, match="measuring it ended with code -9") as caught:
        ask("killed_child", {}, "measuring it")
    assert "whether memory ran out" in caught.value.todo


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    for absent in ([tmp_path / "absent.gguf"], str(tmp_path / "absent.gguf")):
        with pytest.raises(UsageError, match=r"absent\.gguf does not exist"):
            bench(absent)
    path = tmp_path / "a.gguf"
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match="too little"):
        bench([path], repeat=0)


def test_all_parts_of_a_split_artefact_count(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"m-{number:05}-of-00003.gguf").write_bytes(bytes(number))
    (tmp_path / "m.gguf").write_bytes(bytes(50))
    assert file_bytes(tmp_path / "m-00001-of-00003.gguf") == 6
    assert file_bytes(tmp_path / "m.gguf") == 50
    assert len(_parts(tmp_path / "m-00001-of-00003.gguf")) == 3


def test_memory_of_this_process() -> None:
    now, peak = memory()
    assert 1 << 20 < now <= peak


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity to set")
def test_a_process_is_kept_to_as_many_processors() -> None:
    code = (
        "import os; from kanna.benchmark.child import confine; confine(1); "
        "print(len(os.sched_getaffinity(0)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "1\n"
    )


def test_every_runtime_fills_the_same_fields(llama: Path) -> None:
    """A GGUF, an MLX folder and a Hugging Face folder, side by side.

    The same fields, none of them empty but energy.
    """
    pytest.importorskip("mlx_lm")
    needs.llama_cpp()
    convert(llama, llama.parent / "one.gguf", encoding="q8_0", overwrite=True)
    convert(llama, llama.parent / "one-mlx", preset="mlx:q8", overwrite=True)
    paths = [llama.parent / "one.gguf", llama.parent / "one-mlx", llama]
    rows = bench(paths, prompt_tokens=16, gen_tokens=4, repeat=1, threads=1)
    assert [r.runtime for r in rows] == ["llamacpp", "mlx", "torch"]
    told = [r.to_dict() for r in rows]
    assert all(set(t) == set(told[0]) for t in told)
    for one in told:
        assert one["threads"] == 1 and (one["prompt_tokens"], one["gen_tokens"]) == (16, 4)
        assert (
            min(one["load_s"], one["ttft_s"], one["prompt_tps"], one["gen_tps"], one["peak_bytes"])
            > 0
        )
        assert (one["joules_per_token"] is None) == (told[0]["joules_per_token"] is None)
        assert set(one["spread"]) == {"load_s", "ttft_s", "prompt_tps", "gen_tps", "peak_bytes"}
        assert {"weights", "kv", "output"} <= set(one["memory"])


def test_a_short_context_shortens_every_prompt_alike(llama: Path) -> None:
    pytest.importorskip("mlx_lm")
    needs.llama_cpp()
    convert(llama, llama.parent / "short.gguf", encoding="q8_0", overwrite=True)
    convert(llama, llama.parent / "short-mlx", preset="mlx:q8", overwrite=True)
    config = llama.parent / "short-mlx" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 64}))
    rows = bench(
        [llama.parent / "short.gguf", llama.parent / "short-mlx"],
        prompt_tokens=512,
        gen_tokens=8,
        repeat=1,
        threads=1,
    )
    assert [r.prompt_tokens for r in rows] == [64 - 8 - 16] * 2
    short = llama.parent / "short.gguf"
    assert runtimes.of(short).trained_context(short) == 1024


@pytest.mark.parametrize(
    ("right", "drafted", "held", "count"),
    [
        ([True] * 5, 4, 4, 1),
        ([False] * 3, 3 + 2 + 1, 0, 3),
        ([True, False, True, True], 4 + 2, 1 + 2, 2),
        ([], 0, 0, 0),
    ],
)
def test_guesses_count_while_all_before_them_were_right(
    right: list[bool], drafted: int, held: int, count: int
) -> None:
    made = drafting.steps(0, len(right), lambda at, few: right[at : at + few], ahead=4)
    figures = drafting.figures(made, ahead=4)
    assert (figures["drafted"], figures["accepted"]) == (drafted, held)
    assert figures["tokens_per_step"] * count == held + count


@needs_llama
def test_a_model_accepts_all_that_it_guesses_itself() -> None:
    path = packages.smollm2_gguf()
    [row] = bench(path, prompt_tokens=8, gen_tokens=10, repeat=1, threads=1, draft=path)
    assert row.draft and row.draft["acceptance"] == 1 and row.draft["tokens_per_step"] > 3


@needs_llama
def test_a_draft_of_another_vocabulary_is_refused() -> None:
    path, other = packages.smollm2_gguf(), packages.gemma3_270m_gguf()
    with pytest.raises(KannaError, match="splits text into other tokens"):
        bench(path, prompt_tokens=8, gen_tokens=4, repeat=1, threads=1, draft=other)
