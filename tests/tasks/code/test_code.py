"""The task `code`: right answers pass, and hostile ones do no harm."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kanna import convert, tasks
from kanna._util.interpreter import file_command
from kanna.errors import MissingError
from kanna.evaluation import evaluate
from kanna.tasks import code
from kanna.tasks.base import TaskAnswer
from kanna.tasks.code import problems, sandbox
from kanna.tasks.code.problems import PROBLEMS, FunctionProblem

linux = pytest.mark.skipif(sys.platform != "linux", reason="code is locked in on Linux alone")

RIGHT = {
    "add": "return a + b",
    "is_even": "return n % 2 == 0",
    "largest": "return max(numbers, default=None)",
    "backwards": "return text[::-1]",
    "count_vowels": "return sum(c in 'aeiou' for c in text.lower())",
    "factorial": "import math\n    return math.factorial(n)",
    "fibonacci": "a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
    "is_prime": "return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))",
    "is_palindrome": "s = [c.lower() for c in text if c.isalpha()]\n    return s == s[::-1]",
    "without_duplicates": "return list(dict.fromkeys(items))",
    "word_counts": "from collections import Counter\n    return Counter(text.split())",
    "greatest_common_divisor": "while b:\n        a, b = b, a % b\n    return a",
    "mean": "return sum(numbers) / len(numbers) if numbers else 0",
    "second_largest": "s = sorted(set(numbers))\n    return s[-2] if len(s) > 1 else None",
    "flatten": "return [x for row in rows for x in row]",
    "to_binary": "return bin(n)[2:]",
    "balanced": (
        "open_ = []\n    for c in text:\n        if c in '([{':\n            open_.append(c)\n"
        "        elif c in ')]}' and (not open_ or open_.pop() + c not in ('()', '[]', '{}')):\n"
        "            return False\n    return not open_"
    ),
    "caesar": (
        "return ''.join(chr((ord(c) - 97 + shift) % 26 + 97) if 'a' <= c <= 'z' else c "
        "for c in text)"
    ),
    "roman": (
        "out = ''\n    for v, s in ((1000, 'M'), (900, 'CM'), (500, 'D'), (400, 'CD'), (100, 'C'), "
        "(90, 'XC'), (50, 'L'), (40, 'XL'), (10, 'X'), (9, 'IX'), (5, 'V'), (4, 'IV'), (1, 'I')):\n"
        "        while n >= v:\n            out, n = out + s, n - v\n    return out"
    ),
    "run_lengths": (
        "from itertools import groupby\n    return [(c, len(list(g))) for c, g in groupby(text)]"
    ),
    "merge_sorted": "return sorted(a + b)",
    "transpose": "return [list(r) for r in zip(*rows)]",
    "anagrams": ("f = lambda t: sorted(t.replace(' ', '').lower())\n    return f(a) == f(b)"),
    "digit_sum": "return sum(map(int, str(abs(n))))",
}


def answered(text: str) -> TaskAnswer:
    return TaskAnswer(texts=(text,), reasons=("eog",))


def problem(name: str) -> FunctionProblem:
    return next(p for p in PROBLEMS if p.name == name)


def score(name: str, text: str) -> str:
    return code.TASK.score(problem(name), answered(text), None)


@linux
def test_right_functions_pass_as_a_chat_model_and_as_a_base_model_writes_them() -> None:
    assert RIGHT.keys() == {p.name for p in PROBLEMS} and len(PROBLEMS) == 24
    for one in PROBLEMS:
        assert score(one.name, f"    {RIGHT[one.name]}\n") == ""
    body = RIGHT["add"]
    assert score("add", f"Sure:\n```python\ndef add(a, b):\n    {body}\n```\nUse `add`.") == ""
    assert score("add", f"def add(a, b):\n    {body}") == ""
    cut = f"```python\ndef add(a, b):\n    {body}\n\nprint(add(1, 2))"  # the fence never closes
    assert score("add", cut) == ""


@linux
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("    return a - b\n", "add(2, 3) is -1, not 5"),
        ("    return 'x'\n", '"x"'),
        ("    return 1 / 0\n", "ZeroDivisionError"),
        ("    return (\n", "SyntaxError"),
        ("", "not 5"),
        ("    return {a}\n", "not JSON serializable"),
        ("    return 10**4000\n", "not 5"),
        ("I cannot do that.", "SyntaxError"),
        ("    return " + "1 + " * 10_000, "characters"),
        ("def add(a, b): return a + b\nimport os; os._exit(0)", "without a value|code 0"),
        ("def add(a, b): return a + b\nraise SystemExit(0)", "SystemExit"),
    ],
)
def test_wrong_functions_do_not_pass_and_say_why(text: str, why: str) -> None:
    said = score("add", text)
    assert any(part in said for part in why.split("|"))


def test_values_are_those_of_json() -> None:
    assert code.same(2, 2.0) and code.same(0.5, 0.5000000000001) and code.same(None, None)
    for expected, value in ((1, True), (True, 1), (None, False), (0, None), ("1", 1), ({}, [])):
        assert not code.same(expected, value)
    assert code.same({"a": [1]}, {"a": [1.0]}) and not code.same({"a": 1}, {"a": 1, "b": 2})


HOSTILE = {
    "a loop": "while True: pass",
    "a sleep": "import time; time.sleep(1000)",
    "a fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "threads": "import threading\nwhile True: threading.Thread(target=input).start()",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "a disk": "f = open('/x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "many files": "n = 0\nwhile True:\n    open(f'/{n}', 'w').close(); n += 1",
    "output": (
        "import os\nwhile True:\n    for fd in range(3, 30):\n"
        "        try: os.write(fd, b'x' * 99999)\n        except OSError: pass"
    ),
    "a deep value": "def add(a, b):\n    v = []\n    for _ in range(90000): v = [v]\n    return v",
    "a crash": "import ctypes; ctypes.string_at(0)",
    "a signal": "import os\nfor n in range(2, 9): os.kill(-1, 9); os.kill(1, 9)",
    "a shell": "import os; raise SystemExit(os.system('id'))",
    "a program": "import subprocess; subprocess.run(['/bin/ls'])",
}


@linux
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_wrong_and_harmless(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    monkeypatch.setattr(sandbox, "WAIT", 3.0)
    sandbox.require()
    ours = psutil.Process()
    before = ours.children(recursive=True)
    began = time.monotonic()
    said = score("add", f"{HOSTILE[name]}\ndef add(a, b):\n    return a + b\n")
    if name == "a deep value":
        said = score("add", HOSTILE[name])
    assert said, "a program that ends so is no right one"
    assert time.monotonic() - began < 20
    assert ours.children(recursive=True) == before


def reached(*calls: str, program: str = "import os, socket") -> list[str]:
    """What calls raise; "" for one that gave something."""
    results = sandbox.run(program, calls)
    assert not results.problem, results.problem
    return list(results.errors)


@linux
def test_files_of_the_user_are_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key", encoding="utf-8")
    home, own = str(Path.home()), str(Path(sandbox.__file__))
    names = [str(secret), own, "/etc/passwd", "/proc/self/environ", "/dev/sda", f"{home}/.netrc"]
    assert all(reached(*(f"open({name!r}).read()" for name in names)))
    assert all(reached(f"open({os.__file__!r}, 'a')", f"os.remove({os.__file__!r})"))
    up = "/".join([".."] * 20)
    [seen] = sandbox.run("import os", [f"os.listdir({up!r})"]).values
    assert len(seen) <= 2 and "etc" not in seen
    [names_of] = sandbox.run("import os", ["dict(os.environ)"]).values
    assert not names_of.keys() - {"LC_CTYPE"}
    assert secret.read_text(encoding="utf-8") == "key"


@linux
def test_neither_network_nor_other_processes_are_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused = reached(
            f"socket.create_connection(('127.0.0.1', {port}), 1)",
            "socket.create_connection(('192.0.2.1', 80), 1)",
            f"os.kill({os.getpid()}, 9)",
            "os.fork()",
            "os.setuid(0)",
            "os.chroot('/')",
            "ctypes_unshare()",
            program="import os, socket, ctypes\n"
            "def ctypes_unshare():\n"
            "    libc = ctypes.CDLL(None, use_errno=True)\n"
            "    if libc.mount(b'none', b'/', b'tmpfs', 0, None):\n"
            "        raise OSError(ctypes.get_errno(), 'mount')\n",
        )
        assert all(refused), refused
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


@linux
def test_what_is_locked_in_ends_with_who_asked() -> None:
    limits = {"root": str(Path.cwd()), "seconds": 60, "memory": 1 << 29, "disk": 1, "answer": 9}
    task = json.dumps({"program": "import time; time.sleep(60)", "calls": []})
    command = file_command(str(Path(sandbox.__file__).with_name("jail.py")), json.dumps(limits))
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin
    child.stdin.write(task)
    child.stdin.close()
    locked = wait_for(lambda: psutil.Process(child.pid).children())
    time.sleep(0.3)  # until it has asked to end with its parent
    child.kill()
    child.wait()
    wait_for(lambda: not locked[0].is_running() or locked[0].status() == "zombie" or None)


def wait_for(look: Callable[[], object]) -> list[psutil.Process]:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if seen := look():
            return seen if isinstance(seen, list) else []
        time.sleep(0.02)
    raise AssertionError("it did not come")


def test_without_a_sandbox_no_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_refusal", lambda: "unshare: Operation not permitted")
    with pytest.raises(MissingError, match="Operation not permitted") as caught:
        tasks.choose("code")
    assert caught.value.exit_code == 3 and "leave the task" in caught.value.todo
    with pytest.raises(MissingError):
        sandbox.run("1", [])


@linux
def test_a_kernel_that_refuses_is_told_from_a_program_that_fails(tmp_path: Path) -> None:
    limits = {"root": str(tmp_path / "none"), "seconds": 1, "memory": 1 << 29, "disk": 1 << 20}
    command = file_command(
        str(Path(sandbox.__file__).with_name("jail.py")), json.dumps(limits | {"answer": 999})
    )
    given = json.dumps({"program": "", "calls": []})
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert "No such file" in json.loads(done.stdout)["refused"]


@linux
def test_a_real_model_beside_its_file(tmp_path: Path) -> None:
    assert tasks.choose("code", 3)[0].examples == problems.PROBLEMS[:3]
    convert("builtin:stories15m", tmp_path / "q8.gguf", preset="Q8_0")
    result = evaluate(
        tmp_path / "q8.gguf", reference="builtin:stories15m", windows=4, tasks="code", examples=2
    )
    [scored] = result.tasks
    assert scored.examples == 2 and scored.reference_solved == scored.solved == 0
    assert any("solves nothing of code" in note for note in result.notes)
