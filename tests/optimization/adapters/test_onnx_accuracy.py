"""Levels of accuracy, chosen in onnxruntime: a tiny model without massive activations and with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models

from kanna import families, open_source
from kanna.optimization.accuracy_levels import AccuracyResult, level_words
from kanna.optimization.context import Context, Workspace
from kanna.plan import Plan, RuleModel, load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime_genai")

from kanna.optimization.adapters.onnx import ONNXAdapter  # noqa: E402 - needs onnx
from kanna.optimization.adapters.onnx_accuracy import LevelTrials, kinds_of  # noqa: E402
from kanna.optimization.adapters.onnx_scorer import GraphScorer  # noqa: E402

GROUP = 32


def plant(folder: Path, model: Any) -> None:
    """One massive activation in every group that a down projection reads, which it passes over."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[::GROUP] *= 3000.0
            layer.mlp.down_proj.weight[:, ::GROUP] = 0.0
    model.save_pretrained(folder)


def settled(home: Path, massive: bool, free: bool = True) -> tuple[AccuracyResult, Plan, Path]:
    """What was chosen, the plan and the folder afterwards."""
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        patch.setitem(tiny_models.SMALL, "num_hidden_layers", 2)
        model = tiny_models.make("llama", home / "tiny")
    if massive:
        plant(home / "tiny", model)
    source = open_source(str(home / "tiny"))
    workspace = Workspace(
        source=source,
        model=families.load_decoder(source),
        folder=home / "out",
        context=Context(threads=1),
    )
    adapter = ONNXAdapter(workspace)
    adapter.prepare()
    path, artefact = home / "out" / "plan.json", home / "out" / "made"
    rules = [
        RuleModel(pattern=f"^{name.replace('.', chr(92) + '.')}$", encoding="nbits4g32")
        for members in adapter.nodes
        for name in members
        if len(workspace.model.tensors[name].shape) == 2
    ]
    Plan(name="all", encoding="f32", rules=rules).save(path)
    adapter.conversion(artefact, plan=path).write(workspace.context.running())
    plan, ids = load(path), np.random.default_rng(0).integers(3, 500, 96)
    trials = LevelTrials(
        plan=plan,
        artefact=artefact,
        kinds=kinds_of(plan, adapter.nodes, adapter.sizes.tied),
        graph=lambda plan: adapter.conversion(artefact, plan=plan).graph_alone(),
        score=GraphScorer(graph=adapter.graph, windows=[[int(i) for i in ids]], threads=1).score,
        progress=workspace.context.progress,
    )
    data = (artefact / "model.onnx.data").stat().st_ino
    result = trials.settle(path, free=free)
    assert (artefact / "model.onnx.data").stat().st_ino == data, "no weight is written again"
    return result, load(path), artefact


def levels(artefact: Path) -> dict[str, set[int]]:
    """Levels of the nodes of the written graph, by part."""
    import onnx

    by_part: dict[str, set[int]] = {}
    for node in onnx.load(str(artefact / "model.onnx"), load_external_data=False).graph.node:
        if node.op_type == "MatMulNBits":
            level = next(a.i for a in node.attribute if a.name == "accuracy_level")
            by_part.setdefault(node.name.split("/")[-2], set()).add(level)
    return by_part


def test_massive_activations_leave_the_kind_that_reads_them_in_floats(tmp_path: Path) -> None:
    result, plan, artefact = settled(tmp_path / "massive", massive=True)
    assert [kind.kind for kind in result.kinds if kind.floats] == ["ffn_down"]
    assert result.chosen.kl < result.rounded.kl and result.chosen.kl < 1.2 * result.weights.kl
    assert {r.pattern for r in plan.rules if r.accuracy == 0} == {
        rf"^blk\.{layer}\.ffn_down\.weight$" for layer in (0, 1)
    }
    made = levels(artefact)
    assert made.pop("down_proj") == {0} and set().union(*made.values()) == {4}
    assert "but not of ffn_down" in level_words(result.to_dict())
    [note] = result.notes()
    assert "ffn_down" in note and "left in floats" in note


def test_where_nothing_is_massive_all_inputs_stay_rounded(tmp_path: Path) -> None:
    result, plan, artefact = settled(tmp_path / "plain", massive=False)
    assert not any(kind.floats for kind in result.kinds) and result.chosen == result.rounded
    assert {kind.kind for kind in result.kinds} == {
        "attn_qkv",
        "attn_output",
        "ffn_up_gate",
        "ffn_down",
        "output",
    }
    assert all(rule.accuracy is None for rule in plan.rules) and not result.notes()
    assert set().union(*levels(artefact).values()) == {4}


def test_a_speed_that_was_asked_for_is_not_given_up(tmp_path: Path) -> None:
    result, plan, _ = settled(tmp_path / "fast", massive=True, free=False)
    assert not any(kind.floats for kind in result.kinds)
    assert all(rule.accuracy is None for rule in plan.rules)
    [note] = result.notes()
    assert "floats would be slower than was asked for" in note
