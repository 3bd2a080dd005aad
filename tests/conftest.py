"""Sources that many tests share; made once per run."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import longest_first, made_once, registries, wheels
from helpers.browser import Browser
from helpers.making import gguf_file, metadata_of_a_llama
from helpers.packing import ALL, CHATML

from kanna import calibrate
from kanna._util import kept_process, processes
from kanna.calibration import statistics
from kanna.packaging import package
from kanna.sizing import closeness
from kanna.sources import packages

# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ours."""
    parser.addoption(
        "--chaos-minutes", type=float, default=30.0, help="How long `-m chaos` attacks a gateway."
    )
    parser.addoption(
        "--kill-points", type=int, default=200, help="How often `-m kill` ends a command."
    )
    parser.addoption(
        "--odd-requests", type=int, default=50, help="Requests of odd fields for each engine."
    )
    parser.addoption("--odd-seed", type=int, default=1, help="Other fields for another number.")
    parser.addoption("--kill-seed", type=int, default=0, help="Other points for another number.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    longest_first.order(items)


def pytest_collection_finish() -> None:
    """Lets collections of garbage skip what the modules of tests hold: two million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def children_stay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets children with torch serve many tests: pytest names the test in the environment.

    A child is started anew where the environment is another one, which costs it five seconds. None
    of them uses kanna's cache, which many tests put elsewhere.
    """
    same = {"KANNA_CACHE": str(tmp_path_factory.mktemp("no-cache")), "COLUMNS": "80"}

    def without_test() -> dict[str, str]:
        variables = processes.environment()
        variables.pop("PYTEST_CURRENT_TEST", None)
        return variables | same

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kept_process, "environment", without_test)
        patched.setattr(kept_process, "_IDLE_SECONDS", 240.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def own_figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what comparisons of tests measure out of the cache, where `fit` goes by it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(closeness, "FOLDER", str(tmp_path_factory.mktemp("closeness")))
        yield


@pytest.fixture(autouse=True, scope="session")
def graphs_stay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets conversions of one source to ONNX share the float graph that they start from."""
    with made_once.graphs(made_once.shared_folder(tmp_path_factory) / "graphs"):
        yield


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Leaves the environment as a test found it: workers that run in process set theirs."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests of a worker: it takes seconds to start."""
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A browser that has seen nothing yet."""
    chromium.forget()
    yield chromium
    chromium.forget()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The embedded default."""
    return packages.smollm2_gguf()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random float16 llama of two layers, 256 wide: everything but a tokenizer."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    rng = np.random.default_rng(1)
    tensors = {"token_embd.weight": rng.standard_normal((64, 256)).astype(np.float16)}
    for layer in range(2):
        for name, shape in (
            ("attn_norm", (256,)),
            ("attn_q", (256, 256)),
            ("attn_k", (128, 256)),
            ("attn_v", (128, 256)),
            ("attn_output", (256, 256)),
            ("ffn_norm", (256,)),
            ("ffn_gate", (512, 256)),
            ("ffn_up", (512, 256)),
            ("ffn_down", (256, 512)),
        ):
            kind = np.float32 if len(shape) == 1 else np.float16
            tensors[f"blk.{layer}.{name}.weight"] = rng.standard_normal(shape).astype(kind)
    tensors["output_norm.weight"] = np.ones(256, np.float32)
    return gguf_file(
        path, tensors, metadata_of_a_llama(layers=2, hidden=256, heads=4, kv_heads=2, feed=512)
    )


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Short windows, few rows to try shrinkage on, one thread.

    The same code in a fraction of the time.
    """
    import torch
    from helpers import calibrating

    from kanna.calibration import shrinkage, windows

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "WINDOW", calibrating.WINDOW)
        patch.setattr(shrinkage, "ROWS", 4)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some thousand tokens to calibrate on."""
    from helpers import tiny_models

    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(tiny_models.TEXT * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of three layers with a tokenizer, as a Hugging Face folder."""
    from helpers import tiny_models

    folder = tmp_path_factory.mktemp("source") / "llama"
    tiny_models.make("llama", folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(small: None, llama: Path, text: Path) -> tuple[statistics.Statistics, Any]:
    """Statistics of the llama over seven windows, and what `calibrate` returned."""
    from helpers.calibrating import WINDOW

    folder = llama.parent / "statistics"
    result = calibrate(llama, folder, calibration=[text], tokens=7 * WINDOW)
    return statistics.read(folder), result


@pytest.fixture(scope="session", autouse=True)
def wheel_to_ship(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packages of tests bring the source tree along, made into a wheel when one asks for it."""
    from kanna.packaging import wheel

    made: list[Path] = []

    def built() -> Path:
        made[:] = made or [wheels.make(tmp_path_factory.mktemp("wheel"))]
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheel, "_installed", lambda folder: built())
        yield


@pytest.fixture(scope="session")
def packable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF as kanna writes it.

    With provenance, a licence and a chat template whose texts need care.
    """
    metadata = metadata_of_a_llama(layers=2, hidden=64, heads=4, kv_heads=2, feed=128) | {
        "general.name": "Tiny $HOME %n {{ x }}",
        "general.license": "apache-2.0",
        "tokenizer.chat_template": CHATML,
        "kanna.version": "0.1.0",
        "kanna.source": "someone/tiny",
        "kanna.source.sha256": json.dumps(
            {"model.safetensors": "ab" * 32, "config.json": "cd" * 32}
        ),
        "kanna.plan": "Q4_K_M",
        "kanna.plan.encodings": json.dumps({"f16": 3}),
        "kanna.command": "kanna convert someone/tiny --preset Q4_K_M",
    }
    tensors = {"token_embd.weight": np.ones((64, 64), np.float16)}
    return gguf_file(
        tmp_path_factory.mktemp("packable") / "Tiny Model-Q4_K_M.gguf", tensors, metadata
    )


@pytest.fixture(scope="session")
def packaged(packable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with every target."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    package(packable, folder, to=ALL, context=256)
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of Debian's docker-registry."""
    with registries.docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pulled goes to the test's own folder, and log-ins are looked for there."""
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
