"""A context beyond what a model was trained on is refused or said before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers.making import gguf_file

from kanna._util.progress import Silent
from kanna.cli.main import cli
from kanna.errors import UsageError
from kanna.evaluation import evaluate_many, trained_length
from kanna.evaluation import windows as evaluation_windows
from kanna.evaluation.precision import Extent

LENGTH = 2048


class Remarks(Silent):
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @staticmethod
    def said_of(path: Path) -> None:
        """Nothing is wrong with any file."""

    def remark(self, text: str) -> None:
        self.said.append(text)


def made(path: Path, **more: Any) -> Path:
    """A file of a llama that was trained on LENGTH tokens."""
    keys: dict[str, Any] = {"llama.context_length": LENGTH}
    keys |= {f"llama.rope.scaling.{name}": value for name, value in more.items()}
    return gguf_file(path, {}, keys)


def test_caches_are_not_judged_beyond_it(tmp_path: Path) -> None:
    path = made(tmp_path / "m.gguf")
    words = ["evaluate", str(path), "--kv-types", "q8_0", "--context", str(LENGTH + 1)]
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 2, run.output
    for said in (f"context of {LENGTH + 1} tokens", f"trained on {LENGTH}", f"--context {LENGTH}"):
        assert said in " ".join(run.stderr.split())
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        ({}, LENGTH),
        ({"type": "yarn", "factor": 4.0}, 4 * LENGTH),
        ({"type": "linear", "factor": 8.0, "original_context_length": 512}, 4096),
        ({"type": "yarn", "factor": 2.0, "original_context_length": 512}, LENGTH),
        ({"type": "longrope", "factor": 4.0}, LENGTH),
    ],
)
def test_scaled_rotations_count(tmp_path: Path, scaling: dict[str, Any], length: int) -> None:
    path = made(tmp_path / "m.gguf", **scaling)
    assert trained_length.require_trained(path, length) == length
    assert trained_length.require_trained(path, None) == length
    with pytest.raises(UsageError, match=f"trained on {length}"):
        trained_length.require_trained(path, length + 1)


def test_shorter_windows_are_said_before_the_source_is_opened(tmp_path: Path) -> None:
    path, progress = made(tmp_path / "m.gguf"), Remarks()
    trained_length.tell_shorter_windows([path], LENGTH, progress)
    assert progress.said == []
    (tmp_path / "text.txt").write_text("a", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kanna.evaluation._check_artefact", Remarks.said_of)  # no runtime is needed
        with pytest.raises(Exception, match=r"nothing-here"):
            evaluate_many(
                [path],
                reference=tmp_path / "nothing-here",
                text=tmp_path / "text.txt",
                extent=Extent(context=LENGTH + 1),
                progress=progress,
            )
    assert progress.said == [trained_length.shorter_windows(LENGTH)]


def test_windows_are_as_long_as_the_caller_says() -> None:
    class Engine:
        trained_context, adds_bos, bos = 100, False, None

        def tokenize(self, text: str, *, add_bos: bool) -> list[int]:
            return list(range(500))

    engine: Any = Engine()
    long = evaluation_windows.cut(engine, "", context=400, windows=1, default=False, trained=400)
    assert len(long.ids[0]) == 400
    short = evaluation_windows.cut(engine, "", context=400, windows=1, default=False)
    assert len(short.ids[0]) == 100 and trained_length.shorter_windows(100) in short.notes
