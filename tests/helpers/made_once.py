"""What takes long to make, made once per run: also for the other workers of pytest-xdist."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from helpers.graph_server import GraphServer
from kanna.formats.onnx import build, encoder


def shared_folder(folders: pytest.TempPathFactory) -> Path:
    """The folder of this run that all its workers have in common."""
    base = folders.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def once(place: Path, make: Callable[[Path], object]) -> Path:
    """The folder `place` as `make` fills it, when it is first asked for.

    Args:
        place: Below `shared_folder`.
        make: Gets an empty folder; what raises leaves nothing.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.is_dir():
            unfinished = place.with_name(place.name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(place)
    return place


def content(folder: Path) -> str:
    """A hash of the names and bytes of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


@contextmanager
def graphs(folder: Path) -> Generator[None]:
    """Have each source's float graph built once; later conversions get a copy of those files.

    The builder's process loads torch, transformers and onnxruntime, which takes five seconds: here
    it is forked from one that has. What that cannot make goes to a process as kanna starts it.

    Args:
        folder: Where they are kept.
    """
    run_builder, export = build.run_builder, encoder.export
    server = GraphServer()

    def copied(kind: str, source: Path, out: Path, make: Callable[[Path], object]) -> None:
        kept = once(folder / f"{kind}-{content(source)}", make)
        shutil.copytree(kept, out, dirs_exist_ok=True)

    def built(source: Path, out: Path, scratch: Path, *rest: Any) -> None:
        def make(made: Path) -> None:
            task = {"source": str(source), "out": str(made), "scratch": str(scratch)}
            if not server.makes("decoder", task):
                run_builder(source, made, scratch, *rest)

        copied("decoder", source, out, make)

    def exported(source: Path, out: Path, progress: Any) -> None:
        def make(made: Path) -> None:
            if not server.makes("encoder", {"source": str(source), "out": str(made)}):
                export(source, made, progress)

        copied("encoder", source, out, make)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "run_builder", built)
        patch.setattr(encoder, "export", exported)
        try:
            yield
        finally:
            server.end()
