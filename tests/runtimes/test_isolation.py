"""Engines in processes of their own: the same answers, and a crash is an error like any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import tiny_models

from kanna import convert, verify
from kanna._util import processes
from kanna.errors import CrashError, UsageError
from kanna.evaluation.reference import reference_gguf
from kanna.runtimes.isolation import IsolatedLlamaEngine, process
from kanna.runtimes.llama_engine import LlamaEngine
from kanna.runtimes.llamacpp import RUNTIME


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("isolation") / "source"
    folder.mkdir()
    tiny_models.make("llama3", folder)
    return folder


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    return convert(folder, folder.parent / "m.gguf", encoding="q8_0").paths[0]


@pytest.fixture
def engine(path: Path) -> Iterator[IsolatedLlamaEngine]:
    with RUNTIME.open(path, context=256, threads=1) as opened:
        assert isinstance(opened, IsolatedLlamaEngine)
        yield opened


def child_of(engine: IsolatedLlamaEngine) -> Any:
    assert engine._child is not None
    return engine._child._process


def test_answers_are_those_of_an_engine_in_this_process(
    engine: IsolatedLlamaEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_disposable", True)
    text = "Hello world, once more"
    with RUNTIME.open(path, context=256, threads=1) as here:
        assert isinstance(here, LlamaEngine)
        ids = here.tokenize(text, add_bos=True)
        assert engine.tokenize(text, add_bos=True) == ids
        assert engine.detokenize(ids) == here.detokenize(ids)
        assert engine.piece(ids[-1]) == here.piece(ids[-1])
        assert engine.eog_ids == here.eog_ids and engine.parameters == here.parameters
        assert np.array_equal(engine.logits(ids), here.logits(ids))
        assert np.array_equal(engine.logits(ids, first=2, copy=False), here.logits(ids, first=2))
        parts = np.concatenate([part.copy() for part in engine.logits_in_parts(ids, part=3)])
        others = np.concatenate([part.copy() for part in here.logits_in_parts(ids, part=3)])
        assert np.array_equal(parts, others)
        answers = [list(e.generate(ids, max_tokens=9, ignore_eog=True)) for e in (engine, here)]
        assert answers[0] == answers[1]
        assert engine.last.tokens == here.last.tokens == 9
        assert engine.memory() == here.memory()
        for name in ("context", "threads", "vocab_size", "bos", "eos", "adds_bos", "chat_template"):
            assert getattr(engine, name) == getattr(here, name), name


def test_another_call_in_the_middle_of_an_answer(engine: IsolatedLlamaEngine) -> None:
    ids = engine.tokenize("Hello world", add_bos=True)
    whole = "".join(engine.generate(ids, max_tokens=12, ignore_eog=True))
    pieces = engine.generate(ids, max_tokens=12, ignore_eog=True)
    text = next(pieces)
    assert engine.tokenize("Hello world", add_bos=True) == ids
    assert text + "".join(pieces) == whole


def test_an_answer_that_nobody_reads_on_stops(engine: IsolatedLlamaEngine) -> None:
    ids = engine.tokenize("Hello", add_bos=True)
    pieces = engine.generate(ids, max_tokens=200, ignore_eog=True)
    next(pieces)
    pieces.close()
    assert engine.last.tokens < 200
    assert len(list(engine.generate(ids, max_tokens=3, ignore_eog=True))) <= 3


def test_what_one_engine_leaves_stops_nothing_of_the_next(path: Path) -> None:
    """The next engine takes over the process, and with it all that was cancelled there."""
    with RUNTIME.open(path, context=256, threads=1) as engine:
        assert isinstance(engine, IsolatedLlamaEngine)
        pid, ids = child_of(engine).pid, engine.tokenize("Hello", add_bos=True)
        whole = list(engine.generate(ids, max_tokens=12, ignore_eog=True))
        for _ in range(3):
            pieces = engine.generate(ids, max_tokens=200, ignore_eog=True)
            next(pieces)
            pieces.close()
        next(engine.logits_in_parts(ids, part=1))
    with RUNTIME.open(path, context=256, threads=1) as engine:
        assert isinstance(engine, IsolatedLlamaEngine) and child_of(engine).pid == pid
        for _ in range(5):
            assert list(engine.generate(ids, max_tokens=12, ignore_eog=True)) == whole
            assert engine.last.reason == "length" and engine.last.tokens == 12
        assert engine._ask({"do": "next_part", "ids": None, "part": 1}, "scoring with")["rows"] == 0


def test_ctrl_c_in_an_answer_leaves_the_model_loaded(
    engine: IsolatedLlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, pid = engine.tokenize("Hello", add_bos=True), child_of(engine).pid
    pieces = engine.generate(ids, max_tokens=200, ignore_eog=True)
    next(pieces)
    real = process.Child.receive

    def interrupted(self: process.Child, doing: str) -> dict[str, Any]:
        monkeypatch.setattr(process.Child, "receive", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(process.Child, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(pieces)
    assert engine.last.tokens < 200
    assert list(engine.generate(ids, max_tokens=3, ignore_eog=True))
    assert child_of(engine).pid == pid


def test_ctrl_c_while_a_prompt_is_read_does_not_wait(
    engine: IsolatedLlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = engine.tokenize("Hello", add_bos=True)
    real = process.Child.receive

    def interrupted(self: process.Child, doing: str) -> dict[str, Any]:
        monkeypatch.setattr(process.Child, "receive", real)
        raise KeyboardInterrupt

    for ask in (lambda: list(engine.generate(ids, max_tokens=200)), lambda: engine.logits(ids)):
        child = child_of(engine)
        monkeypatch.setattr(process.Child, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask()
        assert child.poll() is not None
        assert engine.tokenize("Hello", add_bos=True) == ids


def test_errors_keep_their_kind(engine: IsolatedLlamaEngine) -> None:
    with pytest.raises(UsageError, match="at least one token"):
        list(engine.generate([]))
    with pytest.raises(UsageError, match="256"):
        engine.logits([1] * 300)
    assert engine.tokenize("Hello")
    engine.close()
    with pytest.raises(UsageError, match="is closed"):
        engine.tokenize("Hello")


@pytest.mark.parametrize(
    ("sign", "reason"),
    [
        (signal.SIGABRT, "SIGABRT"),
        (signal.SIGKILL, "memory"),
        (signal.SIGBUS, "the file was cut while it was read"),
    ],
)
def test_a_crash_is_an_error_and_the_next_call_loads_again(
    engine: IsolatedLlamaEngine, sign: signal.Signals, reason: str
) -> None:
    ids = engine.tokenize("Hello", add_bos=True)
    before = engine.logits(ids)
    os.kill(child_of(engine).pid, sign)
    with pytest.raises(CrashError, match=reason) as caught:
        engine.logits(ids)
    assert caught.value.exit_code == (3 if sign == signal.SIGKILL else 1) and caught.value.todo
    assert np.array_equal(engine.logits(ids), before)


def test_a_crash_in_the_middle_of_an_answer(engine: IsolatedLlamaEngine) -> None:
    pieces = engine.generate(engine.tokenize("Hello"), max_tokens=200, ignore_eog=True)
    next(pieces)
    child_of(engine).send_signal(signal.SIGSTOP)
    child_of(engine).kill()
    with pytest.raises(CrashError):
        list(pieces)


def test_what_is_read_on_after_its_process_is_gone_is_an_error_and_no_end(
    engine: IsolatedLlamaEngine,
) -> None:
    ids = engine.tokenize("Hello world, hello world", add_bos=True)
    pieces = engine.generate(ids, max_tokens=200, ignore_eog=True)
    parts = engine.logits_in_parts(ids, part=2)
    next(pieces)
    child_of(engine).kill()
    with pytest.raises(CrashError):
        engine.tokenize("Hello")
    with pytest.raises(UsageError, match="cannot go on"):
        list(pieces)
    next(parts)
    child_of(engine).kill()
    with pytest.raises(CrashError):
        engine.logits(ids)
    engine.logits(ids)  # in a new process, which knows nothing of the parts
    with pytest.raises(UsageError, match="cannot go on"):
        next(parts)
    first = engine.logits_in_parts(ids, part=2)
    next(first)
    next(engine.logits_in_parts(ids, part=2))
    with pytest.raises(UsageError, match="cannot go on"):
        next(first)


def test_a_child_is_used_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    for _ in range(2):
        with RUNTIME.open(path, context=256, threads=1) as engine:
            pids.append(child_of(engine).pid)  # type: ignore[arg-type]
    assert pids[0] == pids[1]
    other = process.start("mlx")  # which loads other libraries, and hides some
    assert other._process.pid not in pids
    other.kill()
    # Not with other settings of the runtime.
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with RUNTIME.open(path, context=256, threads=1) as engine:
        assert child_of(engine).pid != pids[0]  # type: ignore[arg-type]
    assert len(process._idle) <= 2


def test_the_child_ends_with_us(path: Path) -> None:
    code = (
        "import sys; from kanna.runtimes.llamacpp import RUNTIME\n"
        f"e = RUNTIME.open({str(path)!r}, context=256, threads=1)\n"
        "print(e._child._process.pid, flush=True); sys.stdin.read()"
    )
    ours = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=processes.environment(),
    )
    assert ours.stdout is not None
    child = psutil.Process(int(ours.stdout.readline()))
    ours.kill()
    ours.communicate()
    deadline = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlives us"
        time.sleep(0.05)


def test_the_gate_outlives_a_runtime_that_aborts(
    folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the runtime while the gate asks it: the check fails, with the reason."""
    reference_gguf(folder)
    real = process.Child.send

    def send(self: process.Child, request: dict[str, Any]) -> None:
        if request["do"] == "logits":
            self._process.send_signal(signal.SIGABRT)
        real(self, request)

    monkeypatch.setattr(process.Child, "send", send)
    result = verify(folder, path, threads=1)
    assert result.status == "failed"
    details = " ".join(c.detail for c in result.checks if c.ok is False)
    assert "SIGABRT" in details and "llama.cpp" in details
