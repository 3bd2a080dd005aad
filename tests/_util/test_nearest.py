"""A path that leads nowhere: every verb says what is there under a name like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kanna
from kanna._util.nearest import absent, no_file, unreadable
from kanna.errors import FormatError, KannaError, NotFoundError

VERBS: dict[str, Callable[[Path, Path], Any]] = {
    "inspect": lambda model, _: kanna.inspect(model),
    "verify": lambda model, there: kanna.verify(there, model),
    "evaluate": lambda model, there: kanna.evaluate(model, reference=there),
    "bench": lambda model, _: kanna.bench([model]),
    "package": lambda model, there: kanna.package(model, there.parent / "out", to="systemd"),
    "selftest": lambda model, _: kanna.selftest(model),
    "audit": lambda model, _: kanna.audit(model),
    "audit, key": lambda model, there: kanna.audit(there, key=model),
    "convert": lambda model, there: kanna.convert(model, there.parent / "m.gguf"),
    "convert, imatrix": lambda model, there: kanna.convert(
        there, there.parent / "m.gguf", imatrix=model
    ),
    "convert, plan": lambda model, there: kanna.convert(there, there.parent / "m.gguf", plan=model),
    "calibrate, text": lambda model, there: kanna.calibrate(
        there, there.parent / "s", calibration=model
    ),
    "compare, text": lambda model, there: kanna.compare(
        there, out=there.parent / "out", text=model, presets=["Q8_0"]
    ),
    "generate": lambda model, _: kanna.generate(model, "a"),
    "merge": lambda model, there: kanna.merge(there, model, there.parent / "merged"),
    "run": lambda model, there: kanna.run(model, there.parent / "run"),
    "serve": lambda model, _: kanna.serve([str(model)]),
    "recipe": lambda model, _: kanna.recipe("from", model),
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_name_what_may_be_meant(verb: str, tiny_gguf: Path, tmp_path: Path) -> None:
    there = tmp_path / "model.gguf"
    there.write_bytes(tiny_gguf.read_bytes())
    with pytest.raises(
        KannaError, match=r"modle\.gguf does not exist \(did you mean .*model\.gguf\?\)"
    ):
        VERBS[verb](tmp_path / "modle.gguf", there)


def test_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert absent("notes.tx") == "notes.tx does not exist (did you mean Notes.txt?)"
    assert absent("zzz") == "zzz does not exist"
    assert absent(tmp_path) == f"{tmp_path} is a folder, not a file"
    assert absent("one/two/a") == "one/two/a does not exist: there is no folder one"
    full = tmp_path / "noets.txt"
    assert absent(full) == f"{full} does not exist (did you mean {tmp_path / 'Notes.txt'}?)"


def test_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    gone = unreadable(
        tmp_path / "a", FileNotFoundError(2, "No such file"), FormatError, todo="look"
    )
    assert isinstance(gone, NotFoundError) and gone.exit_code == 2 and gone.todo == "look"
    assert gone.found == no_file(tmp_path / "a") == absent(tmp_path / "a")
    closed = unreadable(tmp_path, PermissionError(13, "Permission denied"), FormatError)
    assert type(closed) is FormatError and closed.found.endswith(
        "cannot be read: Permission denied"
    )
    assert no_file(tmp_path) == f"{tmp_path} is not a file"
