"""Two at once: one writer per output, and nothing stays of a run that was ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.tiny_models import make

import kanna
from kanna._util import atomic, locks, own_files, verified
from kanna.errors import OutputError

HOLDER = """
import sys, time
from pathlib import Path
from kanna._util import atomic, locks, own_files, verified
out = Path(sys.argv[1])
with locks.holding(out, "convert"):
    own_files.create(own_files.fresh_name(out)).close()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "model"
    folder.mkdir()
    make("smollm", folder)
    return folder


def _hold(out: Path) -> subprocess.Popen[str]:
    """A process that writes `out`, and left a partial file already."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.parametrize("verb", ["gguf", "mlx", "safetensors", "package"])
def test_the_second_writer_is_refused_at_once_and_told_who_writes(
    verb: str, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    gguf = kanna.convert(model, tmp_path / "made.gguf", encoding="f16").paths[0]

    def write() -> None:
        if verb == "package":
            kanna.package(gguf, out, to="ollama")
        else:
            kanna.convert(model, out, format=verb)

    holder = _hold(out)
    try:
        with pytest.raises(OutputError, match=f"process {holder.pid}") as refusal:
            write()
        assert "kanna convert" in refusal.value.found
        assert len(list(tmp_path.glob("*.partial"))) == 1  # the holder's
    finally:
        holder.kill()
        holder.wait()
    write()  # the lock ended with its process, and what that left goes
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"out", "made.gguf"}, left


def test_threads_are_writers_too(tmp_path: Path) -> None:
    problems: list[str] = []

    def second() -> None:
        try:
            with locks.holding(tmp_path / "x", "convert"):
                pass
        except OutputError as error:
            problems.append(error.found)

    with locks.holding(tmp_path / "x", "optimize"), locks.holding(tmp_path / "x", "convert"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(problems) == 1 and "thread" in problems[0]
    assert not list(tmp_path.iterdir())
    second()
    assert len(problems) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b'{"pid": "x\\u001b[2J"}', b"{"])
def test_a_lock_that_nobody_holds_is_in_nobodys_way(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".x.kanna-lock").write_bytes(content)
    with locks.holding(tmp_path / "x", "convert"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".x.kanna-lock").symlink_to(victim)
    with pytest.raises(OutputError, match="link"), locks.holding(tmp_path / "x", "convert"):
        pass
    assert victim.read_text() == "precious"


def test_only_what_is_ours_and_left_is_removed(tmp_path: Path) -> None:
    living = own_files.fresh_name(tmp_path / "a")
    living.write_text("")
    mine = living.name.split("-")
    dead = tmp_path / "-".join([*mine[:2], "999999999", *mine[3:]])
    dead.mkdir()
    (dead / "deep").write_text("")
    reused = tmp_path / "-".join([*mine[:3], "1", mine[4]])
    reused.write_text("")
    away = tmp_path / "-".join([mine[0], "00000000", *mine[2:]])
    away.write_text("")
    old = tmp_path / "-".join([mine[0], "11111111", *mine[2:]])
    old.write_text("")
    os.utime(old, (1, 1))
    theirs = [tmp_path / n for n in ("a.partial.txt", "b.partial", "kanna-1.partial", "c.kanna")]
    for path in theirs:
        path.write_text("")
    link = tmp_path / "-".join([*mine[:2], "999999998", *mine[3:]])
    link.symlink_to(theirs[0])
    own_files.sweep(tmp_path)
    left = set(tmp_path.iterdir())
    assert left == {living, away, link, *theirs}


ENTERED = {
    "a lock": ("locks.holding(home / 'x', 'convert')", "os", "ftruncate"),
    "a lock in a new folder": (
        "locks.holding(home / 'a' / 'b' / 'x', 'convert', parents=True)",
        "Path",
        "mkdir",
    ),
    "a folder of work": ("own_files.scratch(home)", "Path", "mkdir"),
}
"""What is entered, and the function after which the signal comes."""
ENDED = """
import os, signal, sys
from pathlib import Path
from kanna._util import locks, own_files
from kanna._util.interruption import Terminated, ending_orderly
home = Path(sys.argv[1])
original = {owner}.{function}
def interrupted(*values, **options):
    answer = original(*values, **options)
    {owner}.{function} = original
    signal.raise_signal(signal.SIGTERM)
    return answer
try:
    with ending_orderly():
        {owner}.{function} = interrupted
        with {entered}:
            sys.exit("the signal was lost")
except Terminated:
    print("given up")
"""


@pytest.mark.parametrize("name", ENTERED)
def test_a_signal_while_something_is_made_leaves_nothing(name: str, tmp_path: Path) -> None:
    """In a process of its own: a second signal would end this one."""
    entered, owner, function = ENTERED[name]
    program = ENDED.format(entered=entered, owner=owner, function=function)
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "given up\n"), ended.stderr
    assert not [*tmp_path.iterdir()]


WRITERS: dict[str, Callable[[Path], None]] = {
    "a small file": lambda path: atomic.write_text(path, "new"),
    "a small file of JSON": lambda path: atomic.write_json(path, {}),
    "a file of the cache": lambda path: verified.keep(path, "new"),
    "a file that is copied": lambda path: _complete(path),
}


def _complete(path: Path) -> None:
    with own_files.complete(path) as partial:
        partial.write_text("new")


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_killed_write_left_goes_with_the_next_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cache, too, where no verb has an output."""
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "cache" / "readings" / "a.json"
    path.parent.mkdir(parents=True)
    (tmp_path / "cache" / "verified").mkdir()
    for folder in (path.parent, tmp_path / "cache" / "verified"):
        mine = own_files.fresh_name(folder / "a.json").name.split("-")
        (folder / "-".join([*mine[:2], "999999999", *mine[3:]])).write_text("half")
    WRITERS[name](path)
    left = [p.name for p in path.parent.iterdir()]
    assert left == ["a.json"]
    if name == "a file of the cache":
        assert not [*(tmp_path / "cache").rglob("*.partial")]


@pytest.mark.parametrize(("form", "preset"), [("mlx", "q4"), ("safetensors", None)])
def test_a_folder_has_its_name_when_it_is_complete(
    form: str, preset: str | None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed leaves no folder that a runtime would load, and the next one ignores."""
    out, seen = tmp_path / "out", list[bool]()
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(out.exists())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    kanna.convert(model, out, format=form, preset=preset)
    assert seen and not any(seen)
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {p.name for p in out.iterdir()}
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps rights elsewhere")
def test_a_folder_of_work_is_its_owner_s(tmp_path: Path) -> None:
    with own_files.scratch(tmp_path) as folder:
        assert folder.stat().st_mode & 0o077 == 0


def test_a_fresh_name_is_never_one_that_lies_in_wait(tmp_path: Path) -> None:
    names = {own_files.fresh_name(tmp_path / "a") for _ in range(100)}
    assert len(names) == 100
    path = own_files.fresh_name(tmp_path / ("long" * 60))
    own_files.create(path).close()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "b").symlink_to(victim)
    (tmp_path / "c").symlink_to("nowhere")
    for name in ("b", "c"):
        with pytest.raises(FileExistsError):
            own_files.create(tmp_path / name)
    assert victim.read_text() == "precious"
