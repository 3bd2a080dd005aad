"""`kanna chat` in a terminal, as people use it, and in a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers import engine_artefacts

from kanna.cli.conversation import Conversation, run_command
from kanna.errors import KannaError, SourceError, UsageError

pty = pytest.importorskip("pty")


class Screen:
    """A program in a terminal: what it has written, and keys for it."""

    def __init__(self, command: list[str], state: Path) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            environment = os.environ | {"KANNA_STATE": str(state), "TERM": "xterm"}
            os.execvpe(command[0], command, environment)
        self.text = ""
        self._read_to = 0
        os.set_blocking(self._terminal, False)

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def until(self, wanted: str, seconds: float = 60) -> str:
        """What came up to `wanted`, since the last such call."""
        end = time.monotonic() + seconds
        while (at := self.text.find(wanted, self._read_to)) < 0:
            assert time.monotonic() < end, f"no {wanted!r} in {self.text[self._read_to :]!r}"
            try:
                self.text += os.read(self._terminal, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                assert wanted in self.text[self._read_to :], self.text
        shown = self.text[self._read_to : at]
        self._read_to = at + len(wanted)
        return shown

    def ended(self) -> int:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:  # a terminal that nobody reads from stops its writer
                os.read(self._terminal, 65536)
            except OSError:
                time.sleep(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("it did not end")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_artefacts.shared("gguf", tmp_path_factory)


@contextmanager
def opened(model: Path, state: Path, *options: str) -> Generator[Screen]:
    """`kanna chat` in a terminal."""
    shown = Screen([sys.executable, "-m", "kanna", "chat", str(model), *options], state)
    try:
        yield shown
    finally:
        with suppress(ProcessLookupError):
            os.kill(shown.pid, signal.SIGKILL)


@pytest.fixture
def screen(model: Path, tmp_path: Path) -> Iterator[Screen]:
    with opened(
        model, tmp_path, "--max-tokens", "3", "--threads", "1", "--context", "512"
    ) as shown:
        yield shown


def test_a_conversation(screen: Screen, tmp_path: Path) -> None:
    screen.until("/help lists the commands")
    screen.until("> ")
    screen.type("\r")
    screen.until("> ")
    screen.type("hello\r")
    screen.until("[cut off at 3 tokens; more with /set max-tokens 6]")
    screen.until("> ")
    screen.type("/help\r")
    assert "/load FILE" in screen.until("Ctrl-C stops an answer")
    screen.type("/set max_tokens 2\r")
    screen.until("max-tokens is 2 now.")
    screen.type("/sav\r")
    screen.until("/sav is no command; expected /save")
    screen.type('"""one\rtwo"""\r')
    screen.until("[cut off at 2 tokens")
    screen.type("\x1b[A\x1b[A")  # two lines up: the message's first line
    screen.until('"""one')
    screen.type("\x15/save talk.json\r".replace("talk.json", str(tmp_path / "talk.json")))
    screen.until("Saved to ")
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [m["role"] for m in saved] == ["user", "assistant"] * 2
    assert saved[0]["content"] == "hello" and saved[2]["content"] == "one\ntwo"
    screen.type("/clear\r")
    screen.until("Forgotten.")
    screen.type(f"/load {tmp_path / 'talk.json'}\r")
    screen.until("4 messages loaded.")
    screen.type("\x03")
    screen.until("/bye ends.")
    screen.type("/bye\r")
    assert screen.ended() == 0
    history = tmp_path / "chat-history"
    assert "hello" in history.read_text() and history.stat().st_mode & 0o77 == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(smollm2: Path, tmp_path: Path) -> None:
    options = ["--max-tokens", "400", "--threads", "1", "--context", "512"]
    with opened(smollm2, tmp_path, *options) as screen:
        screen.until("> ")
        screen.type("Write a long story about a town by the sea.\r")
        screen.until("sea.\r\n")
        screen.until(" ")
        screen.type("\x03")
        screen.until("[stopped]")
        screen.until("> ")
        screen.type("/set max-tokens 1\r")
        screen.until("is 1 now.")
        screen.type("again\r")
        screen.until("[cut off at 1 tokens")
        screen.type("\x04")
        assert screen.ended() == 0


def test_ctrl_c_at_any_moment_leaves_the_prompt_and_sigterm_ends(screen: Screen) -> None:
    screen.until("> ")
    for moment in (0, 0.0005, 0.002, 0.01):
        screen.type("/set max_tokens 2\r")
        screen.until("max-tokens is 2 now.")
        time.sleep(moment)
        screen.type("\x03")
        screen.until("/bye ends.")
    os.kill(screen.pid, signal.SIGTERM)
    screen.until("Terminated.")
    assert screen.ended() == 143


def test_in_a_pipe_each_line_is_a_turn(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kanna", "chat", str(model), "--max-tokens", "2", "--json"]
    run = subprocess.run(
        [*command, "--system", "Be short."],
        input="hello\n\n/help\n",
        capture_output=True,
        text=True,
        env=os.environ | {"KANNA_STATE": str(tmp_path)},
        check=True,
    )
    messages = json.loads(run.stdout)["messages"]
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 2]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["hello", "/help"]
    assert not (tmp_path / "chat-history").exists()


def conversation() -> Conversation:
    choices = {"temperature": 0.0, "top_p": 0.95, "max_tokens": 256, "seed": 0}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return Conversation(model="m", turns=turns, choices=choices)


@pytest.mark.parametrize(
    "line",
    [
        "/set temperature hot",
        "/set temperature -1",
        "/set temperature nan",
        "/set temperature",
        "/set top-p 2",
        "/set max-tokens 0",
        "/set max-tokens 1.5",
        "/set seed x",
        "/set nothing 5",
        "/nothing",
        "/save",
        "/load",
        "/load /nowhere.json",
        "/save /nowhere/at/all.json",
    ],
)
def test_a_command_that_is_wrong_changes_nothing(line: str) -> None:
    talk = conversation()
    with pytest.raises(KannaError):
        run_command(line, talk)
    assert talk == conversation()


def test_options_are_shown_and_set() -> None:
    talk = conversation()
    assert "max-tokens   256" in str(run_command("/set", talk))
    run_command("/set system Answer in French.", talk)
    run_command("/set temperature 0.7", talk)
    assert talk.messages[0] == {"role": "system", "content": "Answer in French."}
    assert talk.choices["temperature"] == 0.7
    assert run_command("/bye", talk) is None and run_command("/quit", talk) is None


def test_files_of_another_kind_are_neither_lost_nor_loaded(tmp_path: Path) -> None:
    talk, other = conversation(), tmp_path / "other.json"
    for text in ("{}", "not json", '{"messages": [{"role": "king", "content": "x"}]}', "[1]"):
        other.write_text(text)
        with pytest.raises(UsageError, match="something else"):
            run_command(f"/save {other}", talk)
        with pytest.raises(SourceError):
            run_command(f"/load {other}", talk)
        assert other.read_text() == text and talk == conversation()
    mine = tmp_path / "mine.json"
    run_command(f"/save {mine}", talk)
    run_command(f"/save {mine}", talk)
    talk.turns.clear()
    assert run_command(f"/load {mine}", talk) == "2 messages loaded."
    assert talk.turns == conversation().turns
