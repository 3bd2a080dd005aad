"""Every verb takes the OpenVINO folders of every family that has a graph of its own making."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import optimizing, tiny_models

import kanna
from kanna.generation import close

for _package in ("openvino", "openvino_tokenizers", "torch"):
    pytest.importorskip(_package)

FAMILIES = [
    pytest.param(recipe, marks=() if recipe == "stablelm" else pytest.mark.slow, id=recipe)
    for recipe in (
        *("gemma2", "gemma3", "gemma3-pattern", "olmo3"),
        *("phi2", "stablelm", "stablelm-parallel"),
    )
]
"""One stands for all by default: test_openvino_graph.py holds each family's logits."""


@pytest.mark.parametrize("recipe", FAMILIES)
def test_every_verb_takes_every_family(recipe: str, tmp_path: Path) -> None:
    source, folder, text = (tmp_path / name for name in ("source", "int4", "text.txt"))
    tiny_models.make(recipe, source)
    text.write_text(tiny_models.TEXT * 60, encoding="utf-8")
    kanna.convert(source, folder, preset="openvino:int4", threads=1)
    assert kanna.verify(source, folder, threads=1).status == "proved"
    assert isinstance("".join(kanna.generate(folder, "Once upon", max_tokens=3)), str)
    close()
    scored = kanna.evaluate(folder, reference=source, text=text, context=64, windows=2, threads=1)
    assert 0 <= scored.kl_mean < 0.2
    [row] = kanna.bench([folder], prompt_tokens=32, gen_tokens=4, repeat=1, threads=1)
    assert row.gen_tps > 0 and row.peak_bytes > row.file_bytes
    names = {row.preset for row in kanna.fit(source, memory="1GB", format="openvino").rows}
    assert {"openvino:int4", "openvino:int8"} <= names
    with optimizing.quick():
        made = kanna.optimize(
            source,
            tmp_path / "optimized",
            format="openvino",
            bpw=6.0,
            effort="fast",
            calibration=text,
            tokens=1024,
            text=text,
            threads=1,
        )
    assert kanna.inspect(made.artefact).kind == "OpenVINO folder"
    packed = kanna.package(made.artefact, tmp_path / "package", to="compose")
    assert packed.kind == "openvino"
    assert any(name.endswith("openvino_model.bin") for name in packed.files)
