"""Steps in a cluster of Ray: two machines on loopback, one of which is lost in the middle.

`pip install '.[ray]'`, then `python -m pytest -m slow tests/executors/test_ray.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import needs

import kanna
from kanna._util.progress import Silent
from kanna.errors import MissingError, SourceError, UsageError
from kanna.recipes import RunResult

slow = pytest.mark.slow  # a cluster takes ten seconds to start


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of two machines with one core each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    paths = [str(Path(kanna.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("KANNA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_agent_register_timeout_ms", "240000")
        made = Cluster()
        add_machine(made, include_dashboard=False)
        add_machine(made)
        yield made.address
        ray.shutdown()
        made.shutdown()


def add_machine(cluster: Any, **options: Any) -> None:
    """Start a machine of one core: Ray gives it 15 s, and there is no setting for busy ones."""
    for trials in range(4, -1, -1):
        try:
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20, **ports(), **options)
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or not trials:
                raise


def ports() -> dict[str, int]:
    """Free ports for the agents of a machine: where they are given, nothing waits to learn them."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
    with ExitStack() as taken:
        free = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: one.getsockname()[1] for name, one in zip(names, free, strict=True)}


def hashes(folder: Path) -> dict[str, str]:
    """The files that the steps made, without those of the run itself."""
    ours = {"step.json", "result.json", "started.json"}
    files = [p for p in (folder / "steps").rglob("*") if p.is_file() and p.name not in ours]
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def keys(result: RunResult) -> dict[str, str]:
    return {step.id: step.key for step in result.steps}


def performs(process: psutil.Process) -> bool:
    """Whether a process runs a step now."""
    with suppress(psutil.Error):
        return "".join(process.cmdline()[:1]).startswith("ray::StepWorker.perform")
    return False


def performing() -> list[psutil.Process]:
    """Processes of our machines that run a step; those of other clusters here are not ours."""
    return [one for one in psutil.Process().children(recursive=True) if performs(one)]


@contextmanager
def one_killed(begun: str) -> Generator[list[int]]:
    """Kill the process of a step while the block runs, once a file is there; yields its pid.

    Args:
        begun: Pattern of that file, in the folder of steps.
    """
    killed: list[int] = []
    ended = threading.Event()
    steps = Path(os.environ["KANNA_CACHE"]) / "steps" / "steps"

    def kill() -> None:
        while not killed and not ended.is_set():
            for process in performing() if any(steps.glob(begun)) else ():
                with suppress(psutil.Error):
                    process.suspend()  # so that it does not end its step before it is killed
                    if performs(process):
                        process.kill()
                        killed.append(process.pid)
                        break
                    process.resume()
            time.sleep(0.02)

    watcher = threading.Thread(target=kill)
    watcher.start()
    try:
        yield killed
    finally:
        ended.set()
        watcher.join()


@slow
def test_a_run_in_a_cluster_is_that_of_this_machine(
    cluster: str, recipe: Path, tmp_path: Path
) -> None:
    here = kanna.run(recipe, tmp_path / "here")
    away = kanna.run(recipe, tmp_path / "away", on="ray", on_set=f"address={cluster}")
    assert away.ok, [step.error for step in away.steps]
    assert hashes(tmp_path / "here") == hashes(tmp_path / "away")
    assert keys(here) == keys(away)
    taken = {"peak_bytes"}  # of a process
    for mine, theirs in zip(here.steps, away.steps, strict=True):
        both = (mine.figures.items(), theirs.figures.items())
        first, second = ({k: v for k, v in figures if k not in taken} for figures in both)
        assert first == second
    made = json.loads((tmp_path / "away/steps/small-Q8_0/result.json").read_text())
    assert made["paths"] == [str(tmp_path / "away/steps/small-Q8_0/small-Q8_0.gguf")]
    # What was brought back is kept, by a run here and by one there.
    assert kanna.run(recipe, tmp_path / "away").count("kept") == 4
    again = kanna.run(recipe, tmp_path / "away", on="ray", on_set=f"address={cluster}")
    assert again.count("kept") == 4


LONG = """
variables: {model: ./llama, text: ./text.txt}
steps:
  inputs:
    verb: calibrate
    with: {source: "${model}", calibration: ["${text}"], tokens: 2048}
  small:
    verb: convert
    for: {preset: [Q4_K_M, Q5_K_M]}
    with: {source: "${model}", preset: "${preset}", statistics: "${inputs}"}
"""


@slow
def test_a_step_whose_process_is_killed_is_started_again(
    cluster: str, llama: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "llama").symlink_to(llama)
    (tmp_path / "text.txt").symlink_to(text)
    recipe = tmp_path / "long.yaml"
    recipe.write_text(LONG, encoding="utf-8")
    remarks: list[str] = []
    with one_killed("*/inputs/started.json") as killed:
        away = kanna.run(
            recipe,
            tmp_path / "away",
            on="ray",
            on_set={"address": cluster},
            remark=remarks.append,
        )
    assert killed and any("started again, 1 of 3" in one for one in remarks), remarks
    assert away.ok, [step.error for step in away.steps]
    here = kanna.run(recipe, tmp_path / "here")
    assert keys(here) == keys(away)
    made = hashes(tmp_path / "away")
    assert made == hashes(tmp_path / "here") and len(made) >= 4


SHORT: dict[str, Any] = {"bpw": 5, "tokens": 2560, "effort": "fast", "windows": 1}


class Remarks(Silent):
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def remark(self, text: str) -> None:
        self.lines.append(text)


@slow
def test_shards_of_a_calibration_survive_the_loss_of_a_worker_with_the_same_bytes(
    cluster: str, llama: Path, text: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.txt"
    long.write_text(text.read_text(encoding="utf-8") * 20, encoding="utf-8")
    options: dict[str, Any] = {
        "calibration": [long],
        "tokens": 6144,
        "shards": 4,
        "gradients": True,
    }
    kanna.calibrate(llama, tmp_path / "here", **options)
    remarks = Remarks()
    with one_killed("*/*-of-4/layer-00000.safetensors") as killed:
        kanna.calibrate(
            llama,
            tmp_path / "away",
            on="ray",
            on_set={"address": cluster},
            progress=remarks,
            **options,
        )
    assert killed and any("started again, 1 of 3" in one for one in remarks.lines), remarks.lines
    here, away = tmp_path / "here", tmp_path / "away"
    names = sorted(path.name for path in here.iterdir())
    assert (
        names == sorted(path.name for path in away.iterdir()) and "gradients.safetensors" in names
    )
    assert all((here / name).read_bytes() == (away / name).read_bytes() for name in names)
    assert not (tmp_path / "away-shards").exists()


FILES = ("measure.json", "plan.json", "llama-optimized.gguf")


def optimized_here(llama: Path, out: Path, options: dict[str, Any]) -> list[bytes]:
    """What an optimization makes without a cluster; all of it but the statistics is removed."""
    kanna.optimize(llama, out, **options)
    made = [(out / name).read_bytes() for name in FILES]
    for name in FILES:
        (out / name).unlink()
    return made


@slow
def test_layers_of_an_optimization_survive_lost_workers_with_the_same_bytes(
    cluster: str, llama: Path, text: Path, tmp_path: Path
) -> None:
    needs.llama_cpp()
    out, remarks = tmp_path / "out", Remarks()
    options: dict[str, Any] = SHORT | {"calibration": [text], "text": text}
    here = optimized_here(llama, out, options)
    with (
        one_killed("*/blk.*/measure.json") as measuring,
        one_killed("*/blk.*/layer.gguf*") as encoding,
    ):
        kanna.optimize(
            llama, out, on="ray", on_set={"address": cluster}, progress=remarks, **options
        )
    lost = [one for one in remarks.lines if "started again, 1 of 3" in one]
    assert measuring and encoding and len(lost) >= 2, remarks.lines
    assert [(out / name).read_bytes() for name in FILES] == here
    assert not list(out.glob("*-layers"))


@slow
def test_a_base_with_adapters_apart_is_that_of_this_machine(
    cluster: str, llama: Path, text: Path, tmp_path: Path
) -> None:
    needs.llama_cpp()
    needs.package("peft")
    from helpers import tiny_adapters

    out, names = tmp_path / "out", [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(names):
        tiny_adapters.make(llama, folder, seed=seed, target_modules=["q_proj", "up_proj"])
        tiny_adapters.words_to_say(folder / "held-out.jsonl", 8)
    beside: dict[str, Any] = {"adapter": names, "apart": True, "retention": 0.0}
    options: dict[str, Any] = SHORT | beside | {"calibration": [text], "text": text}
    here = optimized_here(llama, out, options)
    alone = [path.read_bytes() for path in sorted((out / "adapters").iterdir())]
    away = kanna.optimize(llama, out, on="ray", on_set={"address": cluster}, **options)
    assert [(out / name).read_bytes() for name in FILES] == here and len(away.beside) == 2
    assert [path.read_bytes() for path in sorted((out / "adapters").iterdir())] == alone
    assert not list(out.glob("*-layers"))


@slow
def test_what_is_wrong_in_a_cluster_is_said(cluster: str, recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    result = kanna.run(
        recipe,
        tmp_path / "out",
        set={"model": str(broken)},
        on="ray",
        on_set={"address": cluster, "retries": 0},
    )
    assert result.count("failed") == 2 and result.count("blocked") == 2
    here = kanna.run(recipe, tmp_path / "here", set={"model": str(broken)})
    mine, theirs = (
        [step.error.found for step in one.steps if step.error] for one in (here, result)
    )
    assert mine == theirs  # with the paths of this machine
    assert (tmp_path / "out/steps/small-Q8_0/error.txt").is_file()
    assert text == recipe.read_text(encoding="utf-8")


@slow
def test_a_cluster_that_is_not_there_is_an_error(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    began = time.monotonic()
    with pytest.raises(SourceError, match="cannot be reached"):
        kanna.run(recipe, tmp_path / "out", on="ray", on_set={"address": "127.0.0.1:9"})
    assert not (tmp_path / "out").exists() and time.monotonic() - began < 60


@slow
def test_an_interrupted_run_leaves_nothing_running(
    cluster: str, llama: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "llama").symlink_to(llama)
    (tmp_path / "text.txt").symlink_to(text)
    (tmp_path / "long.yaml").write_text(LONG, encoding="utf-8")
    command = [sys.executable, "-m", "kanna", "run", tmp_path / "long.yaml", "-o", tmp_path / "out"]
    run = subprocess.Popen(
        [*command, "--on", "ray", "--on-set", f"address={cluster}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    _until(lambda: bool(performing()))
    run.send_signal(signal.SIGINT)
    assert "Interrupted. Run it again" in run.communicate(timeout=60)[1]
    assert run.returncode == 130
    _until(lambda: not performing())


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_ray_it_is_said_what_to_install(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanna._util import extras

    def present(name: str) -> bool:
        return name != "ray"

    monkeypatch.setattr(extras, "_found", present)
    with pytest.raises(MissingError, match="needs what is not installed here: ray"):
        kanna.run(recipe, tmp_path / "out", on="ray")
    with pytest.raises(UsageError, match="did you mean retries"):
        kanna.run(recipe, tmp_path / "out", on="ray", on_set="retry=1")
    assert not (tmp_path / "out").exists()


def test_offline_no_cluster_elsewhere_is_asked(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanna._util import extras, outgoing
    from kanna.errors import RefusedError

    def here(*_: str) -> None: ...

    monkeypatch.setattr(extras, "require", here)
    monkeypatch.setattr(outgoing, "forbidden", lambda: True)
    with pytest.raises(RefusedError, match="KANNA_OFFLINE"):
        kanna.run(recipe, tmp_path / "out", on="ray", on_set="address=ray://far.example:10001")
