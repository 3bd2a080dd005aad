"""A lock that is waited for, and folders that two processes put in one place."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kanna._util import own_files
from kanna._util.locks import holding
from kanna.errors import OutputError


def test_who_is_patient_gets_the_lock_when_its_holder_ends(tmp_path: Path) -> None:
    out, order = tmp_path / "out", list[str]()
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with holding(out, "first"):
            taken.set()
            let_go.wait(20)
            order.append("first")

    other = threading.Thread(target=hold)
    other.start()
    assert taken.wait(20)
    with pytest.raises(OutputError, match="another thread"), holding(out, "second", patience=0.2):
        pass
    threading.Timer(0.3, let_go.set).start()
    with holding(out, "second", patience=20):
        order.append("second")
    other.join()
    assert order == ["first", "second"] and not list(tmp_path.iterdir())


def test_a_folder_takes_the_place_of_one_that_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, out = tmp_path / "ours", tmp_path / "out"
    for folder in (ours, out):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    seen = Path.is_dir
    looks = iter([False])  # the first look is before the other process has put its folder there

    def late_look(path: Path) -> bool:
        return next(looks, seen(path))

    monkeypatch.setattr(Path, "is_dir", late_look)
    own_files.put(ours, out)
    assert (out / "name").read_text() == "ours" and [p.name for p in tmp_path.iterdir()] == ["out"]
