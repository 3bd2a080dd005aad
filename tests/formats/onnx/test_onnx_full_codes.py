"""Graphs whose every value is a code of 16 bits: no float between nodes, and logits that stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import in_process, tiny_models
from helpers.onnx_logits import logits

import kanna
from kanna.errors import UsageError
from kanna.evaluation.divergence import compare
from kanna.formats.onnx import files
from kanna.formats.onnx.element_types import element_types
from kanna.formats.onnx.static_shapes import DECODE, PREFILL
from kanna.hardware import providers
from kanna.hardware.providers import placement

pytest.importorskip("onnxruntime_genai")
SHAPE = "16x128"
IDS = np.random.default_rng(0).integers(3, 500, (1, 96))
FULL = [("gemma2", "w4a16"), ("qwen3", "w8a16")]
"""Soft caps and windows; norms of heads and a tied head."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of both families: float, with codes around products, and between all nodes."""
    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (("intermediate_size", 640), ("vocab_size", 544)):
            patch.setitem(tiny_models.SMALL, key, value)
        for name, preset in FULL:
            source = folder / name
            source.mkdir()
            tiny_models.make(name, source)
            kanna.convert(source, folder / f"{name}-float", preset="onnx:fp32", threads=1)
            for kind in ("", "-full"):
                kanna.convert(
                    source,
                    folder / f"{name}{kind or '-products'}",
                    preset=f"onnx:{preset}{kind}",
                    static=SHAPE,
                    threads=1,
                )
    return {path.name: path for path in folder.iterdir()}


def divergence(wanted: np.ndarray, got: np.ndarray) -> float:
    _, [scores] = compare(wanted, [got], np.zeros(len(wanted), np.int64))
    return float(scores.kl.mean())


def forward(folder: Path, cuts: tuple[int, ...]) -> np.ndarray:
    """Logits of IDS, read in so many parts."""
    with in_process.opened(folder, context=128) as engine:
        parts = [
            engine.forward(IDS[0, a:b].tolist(), b - a)
            for a, b in zip(cuts, cuts[1:], strict=False)
        ]
    return np.concatenate(parts)


@pytest.mark.parametrize("name", [name for name, _ in FULL])
def test_no_float_is_left_between_nodes(name: str, made: dict[str, Path]) -> None:
    for file in (PREFILL, DECODE):
        graph = files.load(made[f"{name}-full"] / file).graph
        types = element_types(graph)
        held = {t.name for t in graph.initializer}
        makers = {out: node for node in graph.node for out in node.output}
        islands = [
            node.name
            for node in graph.node
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Cast")
            for given in node.input
            if types.get(given) == "float"
            and (given in held or makers[given].op_type != "DequantizeLinear")
        ]
        embedding = {name for name in islands if "embed_tokens" in name}
        assert set(islands) == embedding
        caches = [i for i in graph.input if i.name.startswith("past_key")]
        assert caches and all(i.type.tensor_type.elem_type == 4 for i in caches)


@pytest.mark.parametrize("name", [name for name, _ in FULL])
def test_logits_stay_those_of_codes_around_products(name: str, made: dict[str, Path]) -> None:
    exact = logits(made[f"{name}-float"], IDS)
    full = forward(made[f"{name}-full"], (0, 96))
    products = divergence(exact, forward(made[f"{name}-products"], (0, 96)))
    assert divergence(exact, full) < 1.5 * products + 2e-4
    # Chunks, a padded one, and single tokens: the same codes but for those at the edge of a step.
    parts = forward(made[f"{name}-full"], (0, 40, 41, 42, 96))
    assert divergence(full, parts) < 2e-4


def test_the_npu_of_qualcomm_takes_all_but_rows_of_the_embedding(made: dict[str, Path]) -> None:
    model = files.load(made["qwen3-full"] / PREFILL)
    refused = placement.place(model, providers.get("qnn")).refused
    assert all("embed" in node.name for node in refused), [n.sentence() for n in refused]


def test_graphs_of_any_length_are_refused(made: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="--static"):
        kanna.convert(made["qwen3"], preset="onnx:w8a16-full", dry_run=True)
