"""`kanna selftest`, and its runner that needs llama.cpp's server and Python alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import engine_artefacts, needs
from helpers.engine_artefacts import ENGINES

import kanna
from kanna.cli.main import cli
from kanna.errors import FormatError, UsageError
from kanna.packaging import check, package
from kanna.self_testing import expectations, runner

SERVER = """#!{python} -I
import sys, threading
import xllamacpp
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
params = xllamacpp.CommonParams()
params.model.path = options["-m"]
params.hostnames, params.port = [options["--host"]], int(options["--port"])
params.n_ctx, params.n_parallel, params.use_jinja = int(options["-c"]), 1, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.verbosity, params.fit_params = 1, False
server = xllamacpp.Server(params)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a chat template, and its expectations beside it."""
    needs.llama_cpp()
    shared = engine_artefacts.shared("gguf", tmp_path_factory)
    path = tmp_path_factory.mktemp("selftest") / "tiny.gguf"
    path.write_bytes(shared.read_bytes())
    assert kanna.selftest(path, write=True, threads=1).status == "written"
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's server as a program, from xllamacpp."""
    pytest.importorskip("xllamacpp")
    program = tmp_path_factory.mktemp("server") / "llama-server"
    program.write_text(SERVER.format(python=sys.executable))
    program.chmod(0o755)
    return program


def verdicts(result: Any) -> dict[str, bool | None]:
    return {one.name: one.ok for one in result.checks}


ALL = {"files", "load", "chat template", "tokens", "log probabilities", "speed", "memory"}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_artefact_passes_where_it_was_written(
    engine: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    artefact = engine_artefacts.shared(engine, tmp_path_factory)
    file = artefact.parent / f"{engine}.json"
    kanna.selftest(artefact, write=True, expected=file, threads=1)
    result = kanna.selftest(artefact, expected=file, threads=1)
    assert result and set(verdicts(result)) >= ALL - {"chat template"}, result.headline()
    assert result.tokens_per_second and result.memory_bytes is not None and result.seconds < 30


def changed(values: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    copy = json.loads(json.dumps(values))
    change(copy)
    return copy


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "files": lambda v: v["files"].update({"tiny.gguf": "0" * 64}),
    "tokens": lambda v: v["positions"][0].update(token=v["positions"][0]["token"] ^ 1),
    "log probabilities": lambda v: v["positions"][1].update(logprob=-9.0),
    "chat template": lambda v: v["template"].update(text="other"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_differs_is_named(gguf: Path, name: str, tmp_path: Path) -> None:
    values = json.loads(expectations.beside(gguf).read_text())
    file = gguf.with_name(f"{name}.json")
    file.write_text(json.dumps(changed(values, WRONG[name])))
    run = CliRunner().invoke(
        cli, ["selftest", str(gguf), "--expected", str(file), "--threads", "1", "--json"]
    )
    failed = [one["name"] for one in json.loads(run.stdout)["checks"] if one["ok"] is False]
    assert run.exit_code == 1 and name in failed
    assert set(failed) <= {name, "log probabilities"}


def test_limits_are_held(gguf: Path) -> None:
    result = kanna.selftest(gguf, least_speed=1e9, most_memory=1, threads=1)
    assert {k for k, v in verdicts(result).items() if v is False} == {"speed", "memory"}


BROKEN = {
    "no JSON": "{",
    "another format": json.dumps({"format": "x"}),
    "no positions": json.dumps({"format": runner.FORMAT, "artefact": "a", "files": {}, "ids": []}),
    "a path outside": json.dumps(
        {
            "format": runner.FORMAT,
            "artefact": "../a",
            "files": {"a": ""},
            "ids": [1],
            "positions": [{"at": 1, "token": 1, "logprob": 0, "band": 1}],
        }
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_expectations_are_refused(gguf: Path, case: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text(BROKEN[case])
    with pytest.raises(FormatError, match=r"is no kanna\.selftest/1|cannot be read"):
        kanna.selftest(gguf, expected=file)
    with pytest.raises(UsageError, match="there are no expectations"):
        kanna.selftest(gguf, expected=tmp_path / "absent.json")


def device(folder: Path, server: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the runner of a package as a device does: nothing of kanna can be imported."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(folder / "selftest.py"), "--server", str(server), *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )


def test_a_package_brings_its_self_test(gguf: Path, server: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    package(gguf, folder, to=["systemd"], context=256, selftest=True)
    assert check(folder) and kanna.selftest(folder, threads=1)
    run = device(folder, server, "--json")
    result = json.loads(run.stdout)
    assert run.returncode == 0 and {c["name"] for c in result["checks"]} == ALL, run.stdout
    assert result["tokens_per_second"] > 0 and result["memory_bytes"] > 0
    slow = device(folder, server, "--least-speed", "1e9")
    assert slow.returncode == 1 and "FAIL speed" in slow.stdout
    assert device(folder, tmp_path / "absent").returncode == 3
    model = next((folder / "models").iterdir())
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    wrong = device(folder, server)
    assert wrong.returncode == 1 and "was changed" in wrong.stdout
    (folder / "selftest.json").write_text("{}")
    assert device(folder, server).returncode == 2
