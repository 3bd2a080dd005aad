"""Which llama.cpp runs a GGUF: what was found is measured once, chosen and said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import engine_artefacts
from helpers.replay_engine import program

from kanna.errors import UsageError
from kanna.serving.arguments import find_program
from kanna.serving.engines import llama_programs
from kanna.serving.engines.base import EngineConfig, ProgramChoice


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    engine_artefacts.source(folder)
    return engine_artefacts.artefact("gguf", folder, folder / "model")


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A llama-server on the PATH that answers at once."""
    (tmp_path / "bin").mkdir()
    path = Path(program(tmp_path / "bin"))
    path = path.rename(path.with_name("llama-server"))
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def config(model: Path) -> EngineConfig:
    return EngineConfig(engine="gguf", path=str(model), name="m", threads=1)


def test_the_faster_one_runs_and_is_remembered(model: Path, native: Path, tmp_path: Path) -> None:
    messages = list[str]()
    first = llama_programs.choose(config(model), tmp_path, messages.append)
    assert first.program == str(native) and "times as fast as xllamacpp" in first.reason
    assert len(messages) == 1 and "Measuring" in messages[0]
    assert llama_programs.choose(config(model), tmp_path, messages.append) == first
    assert len(messages) == 1, "it was measured once"
    os.utime(native, (1, 1))
    llama_programs.choose(config(model), tmp_path, messages.append)
    assert len(messages) == 2, "another build is another question"


@pytest.mark.parametrize(
    ("seconds", "chosen"), [(0.5, True), (0.99, False), (1.0, False), (2.0, False)]
)
def test_a_slower_one_does_not_run(seconds: float, chosen: bool) -> None:
    choice = llama_programs.verdict("/bin/llama-server", {"xllamacpp": 1.0, "native": seconds})
    assert choice.program == ("/bin/llama-server" if chosen else None)
    assert f"{1 / seconds:.2f} times as fast" in choice.reason


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 1\n", "no program"])
def test_one_that_does_not_run_is_left_alone(
    model: Path, native: Path, tmp_path: Path, content: str
) -> None:
    native.write_text(content)
    choice = llama_programs.choose(config(model), tmp_path)
    assert choice.program is None and "does not" in choice.reason
    assert not (tmp_path / llama_programs.CACHE_FILE).exists(), "it may be repaired"


def test_without_one_there_is_nothing_to_choose(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert llama_programs.choose(config(model), tmp_path) == ProgramChoice()


def test_what_is_named_is_used(native: Path) -> None:
    assert find_program("auto") is None and find_program("never") is None
    assert find_program("llama-server") == find_program(native) == str(native)
    with pytest.raises(UsageError, match="is no program"):
        find_program("no-such-server")
