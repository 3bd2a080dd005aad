"""ONNX and MLX folders run in processes of their own, with the answers of one in this process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import engine_artefacts, tiny_encoder

from kanna import convert, evaluate, runtimes, verify
from kanna._util import processes
from kanna.errors import CrashError, FormatError
from kanna.runtimes.isolation import IsolatedEncoder, IsolatedEngine, process
from kanna.runtimes.onnx import RUNTIME as ONNX

pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["onnx", "mlx"])
def artefact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_artefacts.shared(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def source(artefact: Path) -> Path:
    return artefact.parent / "source"


def dying(monkeypatch: pytest.MonkeyPatch, action: str, sign: signal.Signals) -> None:
    """Whenever a child is asked for `action`, a signal ends it first."""
    real = process.Child.send

    def send(self: process.Child, request: dict[str, Any]) -> None:
        if request["do"] == action:
            self._process.send_signal(sign)
        real(self, request)

    monkeypatch.setattr(process.Child, "send", send)


def test_answers_are_those_of_an_engine_in_this_process(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runtimes.of(artefact)
    options: dict[str, Any] = {"context": 128, "threads": 1}
    with runtime.open(artefact, **options) as isolated:
        assert isinstance(isolated, IsolatedEngine)
        monkeypatch.setattr(processes, "_disposable", True)
        with runtime.open(artefact, **options) as here:
            assert not isinstance(here, IsolatedEngine)
            ids = here.tokenize("The quick brown fox", add_bos=True)
            assert isolated.tokenize("The quick brown fox", add_bos=True) == ids
            assert np.array_equal(isolated.logits(ids), here.logits(ids))
            assert np.array_equal(isolated.logits(ids, first=3), here.logits(ids, first=3))
            answers = [
                list(e.generate(ids, max_tokens=8, ignore_eog=True)) for e in (isolated, here)
            ]
            assert answers[0] == answers[1]
            assert isolated.last.tokens == here.last.tokens == 8
            assert isolated.memory() == here.memory()
            for name in ("context", "vocab_size", "trained_context", "bos", "eos", "chat_template"):
                assert getattr(isolated, name) == getattr(here, name), name
            assert isolated.eos is not None
            assert isolated.eog(isolated.eos) and not isolated.eog(ids[-1])


def test_a_process_that_waits_does_not_stand_in_a_folder_that_is_gone(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has loaded none of the libraries yet that look for it."""
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.setattr(process, "_idle", [])
    with monkeypatch.context() as patch:
        patch.chdir(gone)
        started = process.start(runtimes.of(artefact).name)
        started.ask({"do": "close"}, "starting")
        process.give_back(started)
    gone.rmdir()
    (waits,) = process._idle
    with runtimes.of(artefact).open(artefact, context=64, threads=1) as engine:
        assert isinstance(engine, IsolatedEngine) and engine._child is waits
        assert len(engine.logits([5, 6, 7])) == 3


def test_a_crash_is_an_error_and_the_next_call_loads_again(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runtimes.of(artefact).open(artefact, context=64, threads=1) as engine:
        before = engine.logits([5, 6, 7])
        with monkeypatch.context() as patch:
            dying(patch, "logits", signal.SIGSEGV)
            with pytest.raises(CrashError, match="SIGSEGV"):
                engine.logits([5, 6, 7])
        assert np.array_equal(engine.logits([5, 6, 7]), before)


@pytest.mark.parametrize(
    ("action", "sign", "words", "status"),
    [
        ("open", signal.SIGABRT, "SIGABRT", "failed"),
        ("tokenize", signal.SIGSEGV, "SIGSEGV", "failed"),
        ("open", signal.SIGKILL, "memory", "unprovable"),
        ("logits", signal.SIGKILL, "memory", "unprovable"),
    ],
)
def test_the_gate_outlives_a_runtime_that_dies(
    artefact: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    sign: signal.Signals,
    words: str,
    status: str,
) -> None:
    """Who is killed for want of memory says nothing of the file, which is not called failed."""
    dying(monkeypatch, action, sign)
    result = verify(source, artefact, threads=1)
    assert result.status == status
    assert words in " ".join(c.detail for c in result.checks if not c.ok)


def test_an_evaluation_ends_with_a_reason(
    source: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if runtimes.of(artefact).slow_on_cpu:
        pytest.skip("is scored by its values, in the runtime of the reference")
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a small model. " * 20)
    dying(monkeypatch, "logits", signal.SIGKILL)
    with pytest.raises(CrashError, match="memory"):
        evaluate(artefact, reference=source, text=text, windows=1, context=64, threads=1)


def test_an_encoder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    (tmp_path / "source").mkdir()
    source, artefact = tiny_encoder.make(tmp_path / "source"), tmp_path / "encoder"
    convert(source, artefact, preset="onnx:fp32", threads=1)
    texts = ["One text.", "Another, a longer one."]
    with ONNX.open_encoder(artefact, threads=1) as isolated, monkeypatch.context() as patch:
        assert isinstance(isolated, IsolatedEncoder)
        patch.setattr(processes, "_disposable", True)
        with ONNX.open_encoder(artefact, threads=1) as here:
            assert np.array_equal(isolated.embed(texts), here.embed(texts))
            ids = here.ids(texts[1])
            assert isolated.ids(texts[1]) == ids
            assert np.array_equal(isolated.hidden(ids), here.hidden(ids))
            assert isolated.memory() == here.memory() and isolated.longest == here.longest
            assert isolated.seconds > 0
    with monkeypatch.context() as patch:
        dying(patch, "embed", signal.SIGSEGV)
        result = verify(source, artefact, threads=1)
    assert result.status == "failed" and "SIGSEGV" in result.checks[-1].detail
    (artefact / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(FormatError):
        ONNX.open_encoder(artefact, threads=1)
