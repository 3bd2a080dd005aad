"""Matrices with a scale per row, as NPUs take them, and in nf4: stock OpenVINO reads and runs them.

OpenVINO's plugin for NPUs makes graphs of fixed shapes of a folder, and can compile them for the
CPU in the place of an NPU (NPUW_DEVICES), which is what its own tests do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import engine_artefacts, optimizing

from kanna import calibrate, convert, encodings, formats, provenance
from kanna.formats.openvino import MODEL, read_folder

openvino: Any = pytest.importorskip("openvino")
for _package in ("openvino_genai", "openvino_tokenizers", "torch"):
    pytest.importorskip(_package)

PRESETS = ("int4-channel", "int8-channel", "nf4", "int4-g256")
GENERATED = """
import json, sys
import kanna
import openvino_genai
folder, device, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pipe = openvino_genai.LLMPipeline(folder, device, **options)
config = openvino_genai.GenerationConfig(
    max_new_tokens=12, do_sample=False, ignore_eos=True, apply_chat_template=False)
tokens = pipe.get_tokenizer().encode("Once upon a time there was a small model")
print(json.dumps(pipe.generate(tokens, config).tokens))
"""
CPU: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
NPU: dict[str, Any] = {
    "NPU_USE_NPUW": "YES",
    "NPUW_DEVICES": "CPU",
    "NPUW_ONLINE_PIPELINE": "NONE",
    "MAX_PROMPT_LEN": 64,
    "MIN_RESPONSE_LEN": 32,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny decoder in each of these presets."""
    folder = tmp_path_factory.mktemp("codes")
    (folder / "decoder").mkdir()
    engine_artefacts.source(folder / "decoder")
    for preset in PRESETS:
        convert(folder / "decoder", folder / preset, preset=f"openvino:{preset}", threads=1)
    return {preset: folder / preset for preset in PRESETS}


def generated(folder: Path, device: str, options: dict[str, Any]) -> list[list[int]]:
    command = [sys.executable, "-c", GENERATED, str(folder), device, json.dumps(options)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("preset", PRESETS)
def test_openvino_reads_the_values_that_were_chosen(preset: str, made: dict[str, Path]) -> None:
    graph = openvino.Core().read_model(made[preset] / MODEL)
    constants = {op.get_friendly_name(): op for op in graph.get_ops()}
    matrices = {n: t for n, t in read_folder(made[preset]).tensors.items() if len(t.shape) == 2}
    assert len(matrices) > 12
    for name, tensor in matrices.items():
        assert formats.get("openvino").carries(encodings.get(tensor.dtype))
        marked = constants.get(f"{name}/row_scale")
        assert (marked is not None) == preset.endswith("channel")
        scale = marked or constants[f"{name}/scale"]
        if marked is not None:
            assert constants[name].get_element_type().get_type_name() in ("i4", "i8")
            assert list(scale.shape) == [tensor.shape[0], 1]
        codes = openvino.opset13.convert(constants[name], "f32")
        zero = constants.get(f"{name}/zero_point")
        if zero is not None:
            codes = openvino.opset13.subtract(codes, openvino.opset13.convert(zero, "f32"))
        product = openvino.opset13.multiply(codes, openvino.opset13.convert(scale, "f32"))
        compiled = openvino.Core().compile_model(openvino.Model([product], []), "CPU", CPU)
        read = compiled([])[0].reshape(tensor.shape)
        assert np.allclose(read, tensor.rows(0, tensor.shape[0]), rtol=1e-3, atol=1e-6), name


def test_the_pipeline_for_npus_gives_the_tokens_of_the_cpu(made: dict[str, Path]) -> None:
    folder = made["int4-channel"]
    wanted = generated(folder, "CPU", CPU)
    assert len(set(wanted[0])) > 2
    assert generated(folder, "NPU", NPU) == wanted


def test_stock_openvino_genai_takes_nf4(made: dict[str, Path]) -> None:
    assert len(generated(made["nf4"], "CPU", CPU)[0]) == 12


def test_nf4_says_that_statistics_count_by_columns_alone(tmp_path: Path) -> None:
    with optimizing.folder_home(tmp_path) as home:
        texts, source = [home / "text.txt"], home / "tiny"
        calibrate(source, home / "stats", calibration=texts, tokens=512)
    given: dict[str, Any] = {"statistics": home / "stats", "threads": 1}
    made = convert(source, home / "nf4", preset="openvino:nf4", **given)
    [note] = [note for note in made.notes if "gptq" in note]
    assert "nf4g32" in note and "search" in note and "nbits" not in note
    kept = json.loads((home / "nf4" / provenance.FILE).read_text())["kanna.plan.encodings"]
    assert "nf4g32:search" in kept and "nf4g32:gptq" not in kept
    even = convert(source, home / "int4", preset="openvino:int4", dry_run=True, **given)
    assert not [note for note in even.notes if "gptq" in note]
