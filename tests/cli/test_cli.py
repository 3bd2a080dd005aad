"""The command line: results on stdout, everything else on stderr, the right exit codes."""

from __future__ import annotations

import errno
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kanna import errors
from kanna.cli import ui
from kanna.cli.main import cli
from kanna.cli.settings import Settings

CODES = {
    errors.KannaError: 1,
    errors.UsageError: 2,
    errors.FormatError: 1,
    errors.RefusedError: 1,
    errors.PlanError: 1,
    errors.NotFoundError: 2,
    errors.OutputError: 1,
    errors.GateError: 1,
    errors.MissingError: 3,
}


def kanna(*words: str, **given: Any) -> Result:
    return CliRunner().invoke(cli, list(words), **given)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `kanna inspect` raise."""

    def set_error(error: BaseException) -> None:
        def raises(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(importlib.import_module("kanna.inspection"), "open_source", raises)

    return set_error


@pytest.mark.parametrize("kind", CODES, ids=lambda k: k.__name__)
def test_errors_have_found_expected_todo_and_code(
    failing: Any, kind: type[errors.KannaError]
) -> None:
    failing(kind("a cat", expected="a dog", todo="get a dog"))
    run = kanna("inspect", "x")
    assert run.exit_code == CODES[kind]
    assert run.stdout == ""
    assert "Error: a cat" in run.stderr
    assert "Expected: a dog" in run.stderr
    assert "What to do: get a dog" in run.stderr
    assert "Traceback" not in run.stderr


def test_errors_as_json(failing: Any) -> None:
    failing(errors.MissingError("no runtime", todo="install it"))
    run = kanna("inspect", "x", "--json")
    assert json.loads(run.stdout) == {
        "error": {"found": "no runtime", "todo": "install it", "exit_code": 3}
    }
    assert run.exit_code == 3
    assert "no runtime" in run.stderr


def test_usage_errors_as_json() -> None:
    run = kanna("fit", "x", "--json", "--context", "0")
    assert run.exit_code == 2
    assert "0 is not in the range" in json.loads(run.stdout)["error"]["found"]


@pytest.mark.parametrize("words", [["--json", "inspect", "x"], ["inspect", "x", "--json"]])
def test_common_options_on_either_side(failing: Any, words: list[str]) -> None:
    failing(errors.KannaError("a cat"))
    assert "error" in json.loads(kanna(*words).stdout)


def test_mistakes_of_ours_are_short_unless_asked(failing: Any) -> None:
    failing(ZeroDivisionError("oh"))
    run = kanna("inspect", "x")
    assert run.exit_code == 1
    assert (
        "ZeroDivisionError: oh" in run.stderr
        and "--debug" in run.stderr
        and "Traceback" not in run.stderr
    )
    assert "Traceback" in kanna("inspect", "x", "--debug").stderr
    assert "Traceback" in kanna("inspect", "x", env={"KANNA_DEBUG": "1"}).stderr


def test_system_errors_are_explained(failing: Any) -> None:
    failing(OSError(errno.ENOSPC, "No space left on device", "/somewhere/model.gguf"))
    run = kanna("inspect", "x")
    assert run.exit_code == 1
    assert (
        "/somewhere/model.gguf: No space left on device" in run.stderr
        and "free some disk space" in run.stderr
    )


def test_absent_package_is_named(failing: Any) -> None:
    failing(ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece"))
    run = kanna("inspect", "x")
    assert run.exit_code == 3 and "pip install sentencepiece" in run.stderr


def test_ctrl_c_is_one_calm_line(failing: Any) -> None:
    failing(KeyboardInterrupt())
    run = kanna("inspect", "x")
    assert run.exit_code == 130
    assert run.stderr.strip() == "Interrupted."


@pytest.mark.skipif(os.name == "nt", reason="signals are sent in another way on Windows")
def test_ctrl_c_during_real_work(tmp_path: Path) -> None:
    """A command that waits for its input is interrupted: exit code 130, no traceback."""
    code = "import sys; from kanna.cli.main import cli; cli()"
    command = [sys.executable, "-c", code, "generate", str(tmp_path / "no.gguf"), "-"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _wait_until_it_reads(child.pid)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in said and "Stopped." in said


def _wait_until_it_reads(pid: int) -> None:
    """Until the process waits for its standard input."""
    read = {"x86_64": "0", "aarch64": "63"}.get(platform.machine(), "")
    call = Path(f"/proc/{pid}/syscall")
    if not read or not os.access(call, os.R_OK):
        return time.sleep(5)
    for _ in range(600):
        time.sleep(0.1)
        if call.read_text().split()[:2] == [read, "0x0"]:
            return
    raise AssertionError("it does not read")


def test_completion_of_a_shell_alone_is_told_what_it_lacks() -> None:
    run = kanna("completion", "bash")
    assert run.exit_code == 2 and "kanna completion install bash" in run.stderr


def test_unknown_command_suggests_the_nearest() -> None:
    run = kanna("convrt")
    assert run.exit_code == 2 and "Did you mean 'convert'?" in run.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert", "x"], "no output was named"),
        (
            ["convert", "x", "-o", "y", "--preset", "Q8_0", "--encoding", "q8_0"],
            "--preset and --encoding",
        ),
        (["convert", "x", "-o", "y", "--format", "tflite"], "'tflite' is not one of"),
        (["convert", "x", "-o", "y", "--split-max-size", "big"], "'big' is not a size"),
        (["fit", "x", "--context", "0"], "0 is not in the range"),
        (["evaluate", "x.gguf"], "no --reference to compare with"),
        (["compare", "x"], "Missing option '-o'"),
        (["calibrate", "x", "-o", "y", "--tokens", "10"], "10 is not in the range"),
        (["optimize", "x", "-o", "y", "--size", "big"], "'big' is not a size"),
        (["optimize", "x", "-o", "y", "--rule", "a"], "PATTERN=ENCODING"),
        (["compare", "x", "-o", "y", "--presets", ","], "no name given"),
        (["bench"], "Missing argument 'MODEL...'"),
    ],
)
def test_usage_errors(words: list[str], said: str) -> None:
    run = kanna(*words)
    assert run.exit_code == 2, run.output
    assert said in run.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "nowhere.gguf"],
        ["fit", "nowhere.gguf"],
        ["convert", "nowhere.gguf", "-o", "x.gguf"],
        ["bench", "nowhere.gguf"],
        ["generate", "nowhere.gguf", "Hello"],
        ["evaluate", "nowhere.gguf", "--reference", "nowhere.gguf"],
        ["verify", "nowhere.gguf", "nowhere.gguf"],
        ["compare", "nowhere.gguf", "-o", "out"],
        ["chat", "nowhere.gguf"],
        ["calibrate", "nowhere.gguf", "-o", "out"],
        ["optimize", "nowhere.gguf", "-o", "out", "--bpw", "4"],
        ["serve", "nowhere.gguf"],
        ["selftest", "nowhere.gguf"],
        ["package", "nowhere.gguf", "-o", "out"],
        ["merge", "nowhere.gguf", "nowhere.gguf", "-o", "out"],
        ["adapt", "nowhere.gguf", "--data", "nowhere.gguf", "-o", "out"],
        ["run", "nowhere.gguf"],
    ],
    ids=lambda w: w[0],
)
def test_absent_file_is_named_by_every_command(
    words: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    run = kanna(*words, input="Hello\n")
    assert run.exit_code == 2 and "nowhere.gguf" in run.stderr, run.stderr
    assert "computing with" not in run.stderr, "a remark about work that does not begin"
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_json_is_alone_on_stdout_even_when_a_library_prints(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = (
        "import os, importlib; from kanna.cli.main import cli\n"
        "m = importlib.import_module('kanna.inspection')\n"
        "class R:\n def to_dict(self): return {'a': 1}\n"
        "def noisy(*a, **k):\n os.write(1, b'noise'); print('more'); return R()\n"
        "m.inspect = noisy; cli(['inspect', 'x', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"a": 1}
    assert "noise" in done.stderr


def test_json_has_no_infinity_and_no_paths() -> None:
    text = ui.dumps({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x"), 3: (1, 2)})
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": "x", "3": [1, 2]}


def test_lines_are_silent_for_short_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    lines = ui.Lines()
    lines.start("convert", 1_000_000_000)
    for _ in range(9):
        clock[0] += 1
        lines.advance(10_000_000)
    assert capsys.readouterr().err == ""
    clock[0] += 1
    lines.advance(10_000_000)
    assert capsys.readouterr().err == "convert: 100.0 MB of 1.00 GB, 10.0 MB/s, 1 min 30 s left\n"


def test_time_left_knows_the_limit_and_what_an_earlier_run_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kanna._util.progress import done_before, ends_within

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    lines = ui.Lines()
    lines.start("train", 1000, "steps")
    done_before(lines, 100)
    ends_within(lines, 70)
    clock[0] += 10
    lines.advance(10)
    assert capsys.readouterr().err == "train: 110/1000 steps, 1.0 steps/s, 1 min 00 s left\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bars = ui.Bars()
    bars.start("train", 1000, "steps")
    done_before(bars, 100)
    ends_within(bars, 70)
    clock[0] += 10
    bars.advance(10)
    fields = bars._bars.tasks[0].fields  # pyright: ignore[reportPrivateUsage]
    assert (fields["rate"], fields["left"]) == ("1.0 steps/s", "1 min 00 s left")
    bars.finish()


def test_progress_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from kanna._util.progress import Silent

    assert isinstance(ui.Terminal(Settings(quiet=True)).progress(), Silent)
    assert isinstance(ui.Terminal(Settings()).progress(), ui.Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bars = ui.Terminal(Settings()).progress(memory=True)
    assert isinstance(bars, ui.Bars)
    for stage in ("read", "write"):
        bars.start(stage, 100)
        bars.advance(50, "blk.0")
        bars.advance(50)
        bars.finish()
    bars.advance(1)  # after the end: ignored


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (65.2, "1 min 05 s"), (119.9, "2 min 00 s"), (3725, "1 h 02 min")],
)
def test_duration(seconds: float, said: str) -> None:
    assert ui.duration(seconds) == said


def test_every_command_takes_the_common_options() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert {"--json", "--quiet", "--debug"} <= {o for p in command.params for o in p.opts}


def test_no_option_takes_what_is_no_number() -> None:
    """NaN is within every range, as nothing is less or greater."""
    context, tried = click.Context(cli), 0
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        for param in command.params:
            if not isinstance(param.type, click.types.FloatParamType):
                continue
            for value in ("nan", "inf", "-inf", "1e999"):
                with pytest.raises(click.BadParameter):
                    param.type.convert(value, param, context)
                tried += 1
    assert tried > 40


def test_a_pipe_gets_a_line_of_data_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    path = "/a" * 200
    ui.console().print(f"it lies at {path} now")
    assert capsys.readouterr().out == f"it lies at {path} now\n"
