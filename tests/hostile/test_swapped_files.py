"""Files that are swapped between a check and the runtime that reads them: never run as checked."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import engine_artefacts
from helpers.gateways import local

from kanna import runtimes
from kanna._util import processes
from kanna.errors import ChangedError
from kanna.formats.file_states import FileStates
from kanna.formats.onnx import files
from kanna.formats.openvino import graphs
from kanna.runtimes import llamacpp, mlx
from kanna.runtimes.isolation.child import load
from kanna.serving import process
from kanna.serving.launch import EngineRun


def replace(path: Path) -> None:
    """Put another file of the same bytes and times in the place of one, from another thread."""

    def work() -> None:
        other = path.with_name(f".{path.name}.new")
        shutil.copy2(path, other)
        other.replace(path)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def rewrite(path: Path) -> None:
    """Other bytes in the same file, whose size and time of change stay."""
    about = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def move_away_and_back(path: Path) -> None:
    aside = path.with_name(".aside")
    path.rename(aside)
    shutil.copy2(aside, path)
    aside.replace(path)


def relink(path: Path) -> None:
    """The link leads to another file, and back."""
    target = path.readlink()
    for name in ("other.bin", target):
        path.unlink()
        path.symlink_to(name)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "replaced": (lambda folder: replace(folder / "model.safetensors"), "replaced"),
    "cut": (lambda folder: os.truncate(folder / "model.safetensors", 3), "was cut"),
    "removed": (lambda folder: (folder / "model.safetensors").unlink(), "was removed"),
    "written to": (lambda folder: rewrite(folder / "model.safetensors"), "written to or moved"),
    "away and back": (
        lambda folder: move_away_and_back(folder / "model.safetensors"),
        "written to or moved",
    ),
    "another link": (lambda folder: relink(folder / "link.bin"), "written to or moved"),
    "one more": (lambda folder: (folder / "model-2.safetensors").write_bytes(b"a"), "appeared"),
    "in a folder of it": (lambda folder: replace(folder / "inner" / "config.json"), "replaced"),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.skipif(os.name == "nt", reason="links want rights, and there is no time of the system")
def test_no_change_of_a_folder_is_missed(what: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("model.safetensors", "inner/config.json", "other.bin", "target.bin"):
        (tmp_path / name).write_bytes(b"abcdefgh")
    (tmp_path / "link.bin").symlink_to("target.bin")
    states = FileStates([tmp_path])
    states.refuse_changes()
    change, problem = CHANGES[what]
    change(tmp_path)
    with pytest.raises(ChangedError, match=f"{problem}.* while it was read"):
        states.refuse_changes()


def test_the_parts_of_a_split_file_are_its_own(tmp_path: Path) -> None:
    first, second, other = (
        tmp_path / f"{name}-of-00002.gguf" for name in ("m-00001", "m-00002", "n-00002")
    )
    for path in (first, second, other):
        path.write_bytes(b"abc")
    states = FileStates([first])
    other.write_bytes(b"abcd")
    states.refuse_changes()
    replace(second)
    with pytest.raises(ChangedError, match="00002-of-00002"):
        states.refuse_changes()


@pytest.fixture
def _disposable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process stands for that of a runtime."""
    monkeypatch.setattr(processes, "_disposable", True)
    yield


CHECKS: dict[str, tuple[Any, str, str]] = {
    "gguf": (llamacpp, "check_header", ""),
    "onnx": (files, "read_folder", "model.onnx.data"),
    "mlx": (mlx, "check", "model.safetensors"),
    "openvino": (graphs, "check_names", "openvino_model.bin"),
}
"""The last check of each before the runtime has it, and the file that is swapped behind it."""


@pytest.mark.usefixtures("_disposable")
@pytest.mark.parametrize("engine", CHECKS)
def test_a_file_that_is_swapped_behind_its_check_is_not_run(
    engine: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = engine_artefacts.shared(engine, tmp_path_factory)
    path = tmp_path / source.name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
    place, name, swapped = CHECKS[engine]
    check, runtime = getattr(place, name), runtimes.of(path)
    options = {"context": 64, "threads": 1}
    load(runtime.open, str(path), options).close()

    def checked(*given: Any, **more: Any) -> Any:
        result = check(*given, **more)
        replace(path / swapped if swapped else path)
        return result

    closed: list[Any] = []

    def opened(path: str, **options: Any) -> Any:
        made = runtime.open(path, **options)
        monkeypatch.setattr(made, "close", lambda close=made.close: closed.append(close()))
        return made

    monkeypatch.setattr(place, name, checked)
    with pytest.raises(ChangedError, match="was replaced by another file while it was read"):
        load(opened, str(path), options)
    assert closed == [None], "what was read is let go"


@pytest.mark.usefixtures("_disposable")
@pytest.mark.skipif(sys.platform != "linux", reason="another system may say nothing of a move")
def test_a_file_that_is_back_when_its_runtime_has_read_another_is_not_run(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = engine_artefacts.shared("gguf", tmp_path_factory)
    path, aside = tmp_path / source.name, tmp_path / "aside"
    shutil.copy(source, path)

    def opened(name: str, **options: Any) -> Any:
        path.rename(aside)
        shutil.copy(source, path)
        engine = runtimes.of(path).open(name, **options)
        aside.replace(path)
        return engine

    with pytest.raises(ChangedError, match="was written to or moved while it was read"):
        load(opened, str(path), {"context": 64, "threads": 1})


def test_an_engine_of_a_gateway_that_read_another_file_answers_nobody(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started again, with the checks before it."""
    path = tmp_path / "tiny.gguf"
    shutil.copy(tiny_gguf, path)
    started: list[EngineRun] = []

    def start(*given: Any) -> EngineRun:
        if not started:
            replace(path)
        started.append(EngineRun(*given))
        return started[-1]

    monkeypatch.setattr(process, "EngineRun", start)
    with local(path, tmp_path) as gateway:
        assert gateway.main.restarts == 1 and len(started) == 2
        assert started[0].ended.result(10) != 0
        assert "was replaced by another file while it was read" in gateway.main.reason
        assert gateway.post("/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
