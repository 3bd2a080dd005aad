"""Self-test of a model on a device: Python's standard library and llama.cpp's server, nothing else.

    python3 selftest.py --server llama-server

Reads selftest.json beside this file: hashes, a chat template, prompts with the tokens and log
probabilities that the model gave where it was proved. Exit code 0: all as expected. 1: something
is not. 2: wrong use. 3: it cannot be run here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FORMAT = "kanna.selftest/1"
NAME = "selftest.json"
_HERE = "http://127.0.0.1"
_LOAD_SECONDS = 120.0


class SelftestError(Exception):
    """The test cannot be run here, or was asked for wrongly."""

    def __init__(self, text: str, code: int = 3) -> None:
        super().__init__(text)
        self.code = code


def check(name: str, ok: bool | None, detail: str) -> dict[str, Any]:
    """One check: True passed, False failed, None could not be made."""
    return {"name": name, "ok": ok, "detail": detail}


def read(path: Path) -> dict[str, Any]:
    """Expectations from a file; SelftestError for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SelftestError(f"{path} cannot be read: {error}", 2) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT or not _is_whole(values):
        raise SelftestError(f"{path} is no {FORMAT}", 2)
    return values


def _is_whole(values: dict[str, Any]) -> bool:
    """Whether expectations have every part, each of its kind."""
    ids, positions, files = (values.get(key) for key in ("ids", "positions", "files"))
    template = values.get("template")
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        return False
    if not isinstance(files, dict) or not files or not isinstance(positions, list) or not positions:
        return False
    if template is not None and not (
        isinstance(template, dict)
        and isinstance(template.get("text"), str)
        and isinstance(template.get("bos", ""), str)
        and isinstance(template.get("messages"), list)
    ):
        return False
    return all(map(_is_inside, [values.get("artefact"), *files])) and all(
        isinstance(one, dict)
        and type(one.get("at")) is int
        and 0 < one["at"] <= len(ids)
        and type(one.get("token")) is int
        and all(isinstance(one.get(key), (int, float)) for key in ("logprob", "band"))
        for one in positions
    )


def _is_inside(place: object) -> bool:
    """Whether a path stays in the folder of the expectations."""
    return (
        isinstance(place, str)
        and bool(place)
        and not Path(place).is_absolute()
        and ".." not in Path(place).parts
    )


def check_files(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Whether every file has the hash that it had."""
    wrong: list[str] = []
    for place, digest in expected["files"].items():
        path = folder / place
        if not path.is_file():
            wrong.append(f"{place} is missing")
        elif _sha256(path) != digest:
            wrong.append(f"{place} was changed")
    count = len(expected["files"])
    return check("files", not wrong, "; ".join(wrong[:4]) or f"{count} as they were")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def check_template(expected: dict[str, Any], text: str | None) -> dict[str, Any] | None:
    """Whether the chat template renders a conversation as it did; None where there is none."""
    template = expected.get("template")
    if not template:
        return None
    bos = template.get("bos", "")
    wanted = template["text"].removeprefix(bos)
    if text is None:
        return check("chat template", None, "the runtime does not render one")
    ok = text.removeprefix(bos) == wanted
    return check("chat template", ok, "rendered as it was" if ok else f"{text[:120]!r}")


def check_answers(
    expected: dict[str, Any], answers: list[tuple[int, float | None]]
) -> list[dict[str, Any]]:
    """Compare tokens and log probabilities.

    Args:
        expected: The expectations.
        answers: At each position, the likeliest token and the log probability of the token that
            was the likeliest; None where it is no longer among the likeliest.
    """
    other: list[str] = []
    far: list[str] = []
    largest = 0.0
    for position, (token, logprob) in zip(expected["positions"], answers):  # noqa: B905
        at = f"position {position['at']}"
        if token != position["token"]:
            other.append(f"{at}: {token}, not {position['token']}")
        difference = None if logprob is None else abs(logprob - position["logprob"])
        if difference is None or not difference <= position["band"]:
            far.append(f"{at}: {logprob}, not {position['logprob']:.3f}±{position['band']:.2f}")
        else:
            largest = max(largest, difference)
    complete = len(answers) == len(expected["positions"])
    count = len(answers)
    return [
        check(
            "tokens",
            complete and not other,
            "; ".join(other[:3]) or f"{count} of {count} as expected",
        ),
        check(
            "log probabilities",
            complete and not far,
            "; ".join(far[:3]) or f"within {largest:.3f} of what they were",
        ),
    ]


def check_limits(
    speed: float | None, memory: int | None, least_speed: float | None, most_memory: int | None
) -> list[dict[str, Any]]:
    """Speed and memory, held to limits where there are some."""
    slow = least_speed is not None and (speed is None or speed < least_speed)
    large = most_memory is not None and (memory is None or memory > most_memory)
    fast = "not measured" if speed is None else f"{speed:.1f} tokens/s"
    takes = "not measured" if memory is None else f"{memory / 1e6:.0f} MB"
    if least_speed is not None:
        fast += f", at least {least_speed:g} wanted"
    if most_memory is not None:
        takes += f", at most {most_memory / 1e6:.0f} MB wanted"
    return [check("speed", not slow, fast), check("memory", not large, takes)]


class ModelServer:
    """llama.cpp's server with a model, on a port of its own."""

    def __init__(self, program: str, model: Path, context: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = [program, "-m", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        try:
            self.process = subprocess.Popen(
                [*words, "-c", str(context), "--jinja"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise SelftestError(f"{program} cannot be started: {error}") from error

    def wait(self) -> bool:
        """Wait until the model is loaded; False when the server ended instead."""
        end = time.monotonic() + _LOAD_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{_HERE}:{self.port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return True
            except OSError:
                time.sleep(0.1)
        return False

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        request = urllib.request.Request(
            f"{_HERE}:{self.port}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def memory(self) -> int | None:
        """Bytes that it took at most; None where the system does not say."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return None
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def answer(server: ModelServer, ids: list[int], token: int) -> tuple[int, float | None]:
    """The likeliest token after some, and the log probability of `token`."""
    body = {"prompt": ids, "n_predict": 1, "n_probs": 10, "temperature": 0, "cache_prompt": True}
    first = server.ask("/completion", body).get("completion_probabilities")
    if not first:  # the likeliest is part of a character, which no token of a test is
        return -1, None
    likely = first[0]["top_logprobs"]
    return likely[0]["id"], next((one["logprob"] for one in likely if one["id"] == token), None)


def speed(server: ModelServer, ids: list[int]) -> float | None:
    """New tokens per second."""
    body = {"prompt": ids, "n_predict": 32, "temperature": 0, "ignore_eos": True}
    value = server.ask("/completion", body).get("timings", {}).get("predicted_per_second")
    return float(value) if isinstance(value, (int, float)) else None


def test(folder: Path, expected: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Every check, and the verdict."""
    begin = time.monotonic()
    checks = [check_files(folder, expected)]
    fast: float | None = None
    memory: int | None = None
    if checks[0]["ok"]:
        ids = expected["ids"]
        server = ModelServer(options.server, folder / expected["artefact"], max(512, len(ids) + 64))
        try:
            loaded = server.wait()
            checks.append(check("load", loaded, "loaded" if loaded else "the server ended"))
            if loaded:
                checks += _ask(server, expected)
                fast, memory = speed(server, ids), server.memory()
                limits = (options.least_speed, options.most_memory)
                checks += check_limits(fast, memory, *limits)
        except (OSError, ValueError, KeyError, IndexError) as error:
            checks.append(check("answers", False, f"{type(error).__name__}: {error}"))
        finally:
            server.close()
    return {
        "format": FORMAT,
        "artefact": expected["artefact"],
        "status": "failed" if any(one["ok"] is False for one in checks) else "passed",
        "checks": checks,
        "tokens_per_second": fast,
        "memory_bytes": memory,
        "seconds": round(time.monotonic() - begin, 3),
    }


def _ask(server: ModelServer, expected: dict[str, Any]) -> list[dict[str, Any]]:
    checks: list[dict[str, Any]] = []
    if template := expected.get("template"):
        text: str | None = None
        try:
            text = server.ask("/apply-template", {"messages": template["messages"]})["prompt"]
        except urllib.error.HTTPError:
            text = None
        if one := check_template(expected, text):
            checks.append(one)
    answers = [
        answer(server, expected["ids"][: position["at"]], position["token"])
        for position in expected["positions"]
    ]
    return checks + check_answers(expected, answers)


def main() -> int:
    """Run the test and print what came out; returns the exit code."""
    parser = argparse.ArgumentParser(description="Self-test of a model on this device.")
    parser.add_argument("--expected", type=Path, default=Path(__file__).with_name(NAME))
    parser.add_argument("--server", default="llama-server", help="llama.cpp's server")
    parser.add_argument("--least-speed", type=float, help="tokens per second")
    parser.add_argument("--most-memory", type=int, help="bytes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    try:
        result = test(options.expected.resolve().parent, read(options.expected), options)
    except SelftestError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    if options.json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    else:
        marks = {True: "ok  ", False: "FAIL", None: "-   "}
        lines = [f"{marks[one['ok']]} {one['name']}: {one['detail']}" for one in result["checks"]]
        sys.stdout.write("\n".join([*lines, f"{result['status']} in {result['seconds']} s"]) + "\n")
    return 0 if result["status"] == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
