"""What a run on a device is held to: nothing that stayed on the CPU passes, nor nonsense."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs

from kanna import offload
from kanna.benchmark.llama_builds import write_model
from kanna.checks import Check
from kanna.errors import GateError
from kanna.model import F32
from kanna.offload import checks, proof

TOKENS, STEPS, VOCABULARY = 16, 4, 64
REFERENCE: F32 = (
    np.random.default_rng(0).standard_normal((TOKENS + STEPS, VOCABULARY)).astype(np.float32)
)


def run(**changed: Any) -> dict[str, Any]:
    """A run of two layers and the output, all on one device."""
    return {
        "devices": [{"name": "Vulkan0", "description": "a GPU"}],
        "runtime": "llama.cpp 0.3.36-vulkan",
        "layers": {"0": "Vulkan0", "1": "Vulkan0", "2": "Vulkan0"},
        "weights": [("Vulkan0", 9_000_000), ("CPU", 1_000_000)],
        "input_bytes": 1_000_000,
        "operators": {"Vulkan0": {"MUL_MAT": 14}},
        "inputs": {"GET_ROWS": 1},
        "splits": 2,
        "complaint": "",
        "tokens": TOKENS,
        **changed,
    }


def failed(made: list[Check]) -> dict[str, str]:
    """Checks that did not pass, with what they say."""
    return {check.name: check.detail for check in made if not check.ok}


def held(made: F32 = REFERENCE, **changed: Any) -> dict[str, str]:
    """What fails of a run with these logits."""
    return failed(checks.hold("vulkan", run(**changed), made, REFERENCE))


def test_what_is_all_there_passes() -> None:
    rounded = REFERENCE + np.float32(0.02) * np.roll(REFERENCE, 1, axis=1)
    assert held(rounded) == {}


def test_a_layer_on_the_cpu_fails_with_the_reason() -> None:
    layers = {"0": "CPU", "1": "Vulkan0", "2": "Vulkan0"}
    problems = held(layers=layers, complaint="not enough device memory")
    assert problems == {"layers": "layers 0 of 3 stayed on the CPU: not enough device memory"}
    assert set(held(layers={})) == {"layers"}


def test_two_devices_share_the_layers() -> None:
    two = [{"name": f"Vulkan{n}", "description": "a GPU"} for n in range(2)]
    layers = {"0": "Vulkan0", "1": "Vulkan1", "2": "Vulkan1"}
    weights = [("Vulkan0", 4_000_000), ("Vulkan1", 5_000_000), ("CPU", 1_000_000)]
    assert held(devices=two, layers=layers, weights=weights) == {}
    assert set(held(devices=two[:1], layers=layers, weights=weights)) == {"layers", "weights"}


@pytest.mark.parametrize(
    "weights", [[("CPU", 9_000_000)], [("Vulkan0", 5_000_000), ("CPU", 5_000_000)]]
)
def test_weights_in_main_memory_fail(weights: list[tuple[str, int]]) -> None:
    assert set(held(weights=weights)) == {"weights"}


def test_operators_on_the_cpu_fail_by_name() -> None:
    problems = held(operators={"Vulkan0": {"MUL_MAT": 14}, "CPU": {"FLASH_ATTN_EXT": 2}})
    assert set(problems) == {"operators"} and "FLASH_ATTN_EXT ×2" in problems["operators"]
    assert set(held(operators={})) == {"operators"}


@pytest.mark.parametrize(
    "nonsense",
    [
        np.roll(REFERENCE, 1, axis=1),
        np.zeros_like(REFERENCE),
        REFERENCE * np.float32(1.3),
        np.full_like(REFERENCE, np.nan),
        REFERENCE[:, :-1],
    ],
    ids=["moved", "zero", "larger", "nan", "narrow"],
)
def test_nonsense_fails(nonsense: F32) -> None:
    assert set(held(nonsense)) == {"logits, prompt", "logits, one token at a time"}


def test_nonsense_of_one_kernel_fails() -> None:
    """Prompts and single tokens are computed by different kernels."""
    made = REFERENCE.copy()
    made[TOKENS:] = made[TOKENS:, ::-1]
    assert set(held(made)) == {"logits, one token at a time"}


def test_the_size_of_logits_does_not_matter() -> None:
    """A model of chance has flat ones, whose KL divergence is small whatever was computed."""
    flat = REFERENCE * np.float32(1e-3)
    made = checks.hold("vulkan", run(), np.roll(flat, 1, axis=1), flat)
    assert "logits, prompt" in failed(made)
    assert failed(checks.hold("vulkan", run(), flat, flat)) == {}


def test_the_cpu_is_proved_to_be_the_cpu(tmp_path: Path) -> None:
    """The same run for real: all operators are counted, none is elsewhere."""
    needs.llama_cpp()
    write_model(tmp_path / "trial.gguf")
    proved = proof.prove(tmp_path / "trial.gguf", "cpu", threads=1)
    assert proved.ok and proved.operators["CPU"]["MUL_MAT"] > 10
    assert offload.GPU_BACKENDS and "cpu" not in offload.GPU_BACKENDS


BROKEN = """
void sincosf(float x, float *sine, float *cosine) { *sine = *cosine = 0.7f; }
float cosf(float x) { return 0.7f; }
float sinf(float x) { return 0.7f; }
float expf(float x) { return 0.7f; }
float powf(float x, float y) { return 0.5f; }
"""
"""Mathematics of a library that loads, and is wrong: positions and gates are all alike."""


@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
def test_a_library_that_computes_nonsense_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's process alone gets it; llama.cpp itself is what it always is."""
    needs.llama_cpp()
    compiler = needs.program("gcc", "cc", install="apt install gcc")
    (tmp_path / "broken.c").write_text(BROKEN)
    made = ["-shared", "-fPIC", "-fno-builtin", "-w", "-o", "broken.so", "broken.c"]
    subprocess.run([compiler, *made], cwd=tmp_path, check=True)
    real = proof.ask
    runs: list[str] = []

    def ask(module: str, task: Any, doing: str, *, variables: dict[str, str]) -> Any:
        first = not runs
        runs.append(task["backend"])
        broken = {"LD_PRELOAD": str(tmp_path / "broken.so")} if first else {}
        return real(module, task, doing, variables=variables | broken)

    monkeypatch.setattr(proof, "ask", ask)
    write_model(tmp_path / "trial.gguf")
    with pytest.raises(GateError, match="logits") as caught:
        proof.require(tmp_path / "trial.gguf", "cpu", threads=1)
    assert "with the logits of the CPU" in str(caught.value) and caught.value.todo
