"""Runtimes that `kanna runtime install` built, on their devices: `pytest -m backend tests/runtime`.

On a machine without a GPU, Vulkan's software renderer stands for one: GGML_VK_VISIBLE_DEVICES=0.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import needs

import kanna
from kanna import runtime
from kanna._util.atomic import write_json
from kanna.benchmark.llama_builds import write_model
from kanna.errors import KannaError, MissingError
from kanna.libllama import builds, installed
from kanna.libllama.devices import REGISTERED
from kanna.offload import proof

pytestmark = pytest.mark.backend


def here() -> list[str]:
    """Installed builds whose backend has a device, by name."""
    return [
        one.name
        for one in runtime.list().runtimes
        if one.kind == "installed" and one.backend != "cpu" and not one.remark
    ]


@pytest.fixture(scope="module")
def build() -> str:
    """The newest build with a device."""
    names = here()
    if not names:
        pytest.skip("no installed runtime sees a device: kanna runtime install --backend NAME")
    return names[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of chance."""
    path = tmp_path_factory.mktemp("model") / "trial.gguf"
    write_model(path)
    return path


def test_all_of_a_model_runs_on_the_device(build: str, model: Path) -> None:
    backend = installed.get(build).backend
    proved = proof.prove_with(build, model, backend, threads=1)
    assert {check.name: check.ok for check in proved.checks} == dict.fromkeys(
        ("device", "layers", "weights", "operators", "logits, prompt")
        + ("logits, one token at a time",),
        True,
    )
    assert "CPU" not in proved.operators
    assert any(key.startswith(REGISTERED[backend]) for key in proved.operators)


def test_two_devices_share_a_model(
    build: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One device named twice is two to Vulkan."""
    if installed.get(build).backend != "vulkan":
        pytest.skip("only Vulkan shows one device as two")
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0,0")
    proved = proof.prove_with(build, model, "vulkan", threads=1)
    assert proved.ok and set(proved.operators) == {"Vulkan0", "Vulkan1"}


def test_without_its_driver_nothing_runs(
    build: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nonexistent.json")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OCL_ICD_VENDORS", "/nonexistent")
    with pytest.raises(MissingError, match="no device"):
        proof.prove_with(build, model, installed.get(build).backend, threads=1)
    monkeypatch.setenv(builds.VARIABLE, build)
    with pytest.raises(MissingError, match="has no device here"):
        list(kanna.generate(model, "x", max_tokens=1))


def test_a_device_that_is_lost_is_an_error(build: str, model: Path) -> None:
    """As a driver ends a process whose device is gone: nothing else ends with it."""
    backend = installed.get(build).backend
    command = [sys.executable, "-m", "kanna", "verify", str(model), "--backend", backend]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    worker = None
    while worker is None and child.poll() is None:
        below = psutil.Process(child.pid).children(recursive=True)
        worker = next((p for p in below if "kanna.offload.worker" in p.cmdline()), None)
        time.sleep(0.05)
    assert worker is not None
    while worker.cpu_times().user < 1:  # it computes
        time.sleep(0.05)
    worker.kill()
    _, printed = child.communicate(timeout=120)
    assert child.returncode == 1 and "ended with code -9" in printed and "device" in printed


def test_what_is_measured_ran_on_the_device(
    build: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nothing is measured."""
    monkeypatch.setenv(builds.VARIABLE, build)
    backend = installed.get(build).backend
    [row] = kanna.bench([stories()], backend=backend, prompt_tokens=16, gen_tokens=4, repeat=1)
    assert row.offload is not None and row.offload["backend"] == backend and row.gen_tps > 0
    with pytest.raises(KannaError):
        kanna.bench([stories()], backend="sycl" if backend != "sycl" else "cuda", repeat=1)


LAYER = "VK_LAYER_KANNA_lost"
MANIFEST = {
    "file_format_version": "1.1.2",
    "layer": {
        "name": LAYER,
        "type": "GLOBAL",
        "library_path": "./lost_device.so",
        "api_version": "1.3.0",
        "implementation_version": "1",
        "description": "loses its device",
        "functions": {"vkGetInstanceProcAddr": "of_instance", "vkGetDeviceProcAddr": "of_device"},
    },
}


@pytest.fixture
def losing(build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver below Vulkan's that takes three submissions of work and then has no device."""
    if installed.get(build).backend != "vulkan":
        pytest.skip("only Vulkan takes a layer")
    compiler = needs.program("gcc", "cc", install="gcc, libvulkan-dev")
    code = str(Path(__file__).with_name("lost_device.c"))
    made = ["-shared", "-fPIC", "-o", str(tmp_path / "lost_device.so"), code]
    subprocess.run([compiler, *made], check=True)
    write_json(tmp_path / "lost_device.json", MANIFEST)
    monkeypatch.setenv("VK_LAYER_PATH", str(tmp_path))
    monkeypatch.setenv("VK_INSTANCE_LAYERS", LAYER)
    monkeypatch.setenv("KANNA_TEST_SUBMITS", "3")


@pytest.mark.usefixtures("losing")
def test_a_device_that_its_driver_loses_is_named_as_lost(
    build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every verb; the model is not what is told to be wrong."""
    runs = (
        lambda: kanna.verify(stories(), backend="vulkan", threads=1),
        lambda: kanna.bench([stories()], backend="vulkan", threads=1, repeat=1),
        lambda: list(kanna.generate(stories(), "Once", max_tokens=2, threads=1)),
    )
    monkeypatch.setenv(builds.VARIABLE, build)
    for run in runs:
        with pytest.raises(KannaError, match=r"device\s?lost|DeviceLost") as caught:
            run()
        assert caught.value.exit_code == 1 and "driver's log" in caught.value.todo
        assert "KANNA_LLAMACPP=auto" in caught.value.todo


def test_a_device_that_a_backend_refuses_is_named(model: Path) -> None:
    """As ggml's OpenCL refuses PoCL's CPU: the refusal is the backend's own, and clean."""
    refusing = [one for one in runtime.list().runtimes if one.kind == "installed" and one.remark]
    if not refusing:
        pytest.skip("every installed runtime sees a device")
    for one in refusing:
        with pytest.raises(MissingError, match=f"sees no device of {one.backend}: .") as caught:
            proof.prove_with(one.name, model, one.backend, threads=1)
        assert caught.value.todo


def stories() -> Path:
    """A model with a tokenizer."""
    from kanna.sources import packages

    out = packages.cache_dir() / "backend-test" / "stories15m.gguf"
    if not out.is_file():
        out.parent.mkdir(exist_ok=True)
        kanna.convert(packages.stories15m_wide(), out, preset="Q8_0")
    return out
