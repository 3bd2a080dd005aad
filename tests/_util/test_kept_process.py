"""Children that stay for further tasks: one for many, replaced when it dies, gone with us."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kanna._util import kept_process
from kanna._util.kept_process import ask_kept
from kanna._util.processes import end_all, environment
from kanna.errors import KannaError

WORKER = """
import os, sys
from kanna._util.kept_process import serve

def work(word):
    print("noise")
    if word == "die":
        print("out of luck", file=sys.stderr)
        os._exit(7)
    return {"word": word, "process": os.getpid(), "folder": os.getcwd()}

if __name__ == "__main__":
    sys.exit(serve(work))
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "word_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "word_worker"


def test_one_child_answers_many_and_is_replaced_when_it_dies(
    worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (ask_kept(worker, {"word": w}, "it") for w in ("a", "ü"))
    assert (first["word"], second["word"]) == ("a", "ü")
    assert first["process"] == second["process"]
    with pytest.raises(KannaError, match="it ended with code 7: out of luck"):
        ask_kept(worker, {"word": "die"}, "it")
    third = ask_kept(worker, {"word": "c"}, "it")
    assert third["process"] != first["process"]
    monkeypatch.setenv("KANNA_TEST_VARIABLE", "other")
    assert ask_kept(worker, {"word": "d"}, "it")["process"] != third["process"]
    assert not psutil.pid_exists(third["process"])


def test_a_child_that_has_ended_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be that of another process by then, whose children are not ours."""
    child = subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE, text=True)
    child.communicate()
    monkeypatch.setattr(psutil, "Process", lambda _: pytest.fail("looked for"))  # pyright: ignore[reportUnknownLambdaType]
    end_all(child)


def test_a_child_stands_where_its_parent_does(
    worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries ask for the working folder while they load: one that is gone would fail them."""
    folders = [tmp_path / "gone", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert ask_kept(worker, {"word": "a"}, "it")["folder"] == str(folder)
    folders[1].rmdir()
    assert ask_kept(worker, {"word": "a"}, "it")["folder"] == folders[0].anchor


def test_a_child_that_is_asked_nothing_ends(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_process, "_IDLE_SECONDS", 0.2)
    child = psutil.Process(ask_kept(worker, {"word": "a"}, "it")["process"])
    child.wait(20)


def test_a_child_ends_with_a_parent_that_is_killed(worker: str) -> None:
    code = (
        "import os; from kanna._util.kept_process import ask_kept;"
        f"print(ask_kept({worker!r}, {{'word': 'a'}}, 'it')['process'], flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(20)
