"""QDQ graphs by a plan: bits by matrix, the bytes of the folder, and static = dynamic."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers import in_process, tiny_models

import kanna
from kanna._util.disk import folder_size
from kanna.conversion import ConversionRequest, Guidance, WriteOptions
from kanna.conversion.onnx_channel import ChannelConversion, ChannelSizes
from kanna.errors import PlanError
from kanna.families import load_decoder
from kanna.formats.onnx import files, qdq, static_shapes
from kanna.formats.onnx.code_room import CodeRoom
from kanna.formats.onnx.static_shapes import DECODE, PREFILL, StaticShape
from kanna.hardware import providers
from kanna.hardware.providers import placement
from kanna.plan import Plan, RuleModel
from kanna.sources import open_source

TensorProto = pytest.importorskip("onnx").TensorProto
pytest.importorskip("onnxruntime_genai")
SHAPE = "16x128"
IDS = np.random.default_rng(0).integers(3, 500, 96)
FEW, WIDE = "int4_channel", "int8_channel"


def mixed(where: str | None) -> Plan:
    """4 bits, but 8 for the way down and the embedding, which is the head too."""
    rules = [
        RuleModel(pattern=f"^{p}", encoding=WIDE) for p in (r"blk\.\d\.ffn_down", "token_embd")
    ]
    return Plan.model_validate(
        {"encoding": FEW, "rules": [r.model_dump() for r in rules], "activation_codes": where}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The float graph, the room of 8 bits, a mixed plan between all nodes and around products."""
    folder = tmp_path_factory.mktemp("channel")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (("intermediate_size", 640), ("vocab_size", 544)):
            patch.setitem(tiny_models.SMALL, key, value)
        tiny_models.make("qwen3", folder / "source")
        kanna.convert(folder / "source", folder / "float", preset="onnx:fp32", threads=1)
    source = open_source(folder / "source")
    model = load_decoder(source)
    everywhere = Plan(encoding=WIDE, activation_codes="all")
    for name, plan, static in (
        ("room", everywhere, SHAPE),
        ("all", mixed("all"), SHAPE),
        ("products", mixed(None), None),
    ):
        request = ConversionRequest(static=static, provider="qnn" if static else None)
        work = ChannelConversion(source, model, folder / name, request, plan)
        work.graph, work.blank = folder / "float", name == "room"
        work.write(WriteOptions(threads=1))
    return {path.name: path for path in folder.iterdir()}


def test_bytes_are_known_before_anything_is_written(
    made: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets, lengths and the order of the data are those of the room of 8 bits."""
    source = open_source(made["source"])
    graph, room = made["float"] / "model.onnx", {"all": CodeRoom(made["room"])}
    sizes = ChannelSizes(source, load_decoder(source), Guidance(), graph=graph, room=room)
    assert sizes.of(mixed("all")) == folder_size(made["all"])
    # A search sizes many plans: no graph is read for another one.
    monkeypatch.setattr(files, "load", None)
    assert sizes.of(Plan(encoding=WIDE, activation_codes="all")) == folder_size(made["room"])


def test_matrices_have_the_bits_of_the_plan_and_none_is_outside_of_the_mask(
    made: Mapping[str, Path],
) -> None:
    graph = files.load(made["all"] / PREFILL)
    kinds = {t.name: t.data_type for t in graph.graph.initializer}
    for layer in range(2):
        down = qdq.codes_name(f"model.layers.{layer}.mlp.down_proj.MatMul.weight")
        up = qdq.codes_name(f"model.layers.{layer}.mlp.up_proj.MatMul.weight")
        assert kinds[down] == TensorProto.INT8 and kinds[up] == TensorProto.INT4
    assert kinds[qdq.codes_name("lm_head.MatMul.weight")] == TensorProto.INT8
    assert not placement.place(graph, providers.get("qnn")).products
    assert placement.place(graph, providers.get("vitisai")).products, "it multiplies no int4"


def test_graphs_for_xdna_multiply_codes_of_8_bits_alone(made: Mapping[str, Path]) -> None:
    for name in (PREFILL, DECODE):
        graph = files.load(made["room"] / name)
        kinds = {t.name: t.data_type for t in graph.graph.initializer}
        codes = {kind for key, kind in kinds.items() if key.endswith(qdq.codes_name(""))}
        assert codes == {TensorProto.INT8}
        assert not placement.place(graph, providers.get("vitisai")).products


def test_static_graphs_give_the_tokens_of_the_dynamic_one(
    made: Mapping[str, Path], tmp_path: Path
) -> None:
    static = tmp_path / "static"
    shutil.copytree(made["products"], static)
    static_shapes.fix(static, StaticShape.parse(SHAPE))
    read: list[np.ndarray] = []
    for folder in (made["products"], static):
        with in_process.opened(folder, context=128) as engine:
            cuts = ((0, 60), (60, 95), (95, 96))
            parts = [engine.forward(IDS[a:b].tolist(), b - a) for a, b in cuts]
        read.append(np.concatenate(parts))
    wanted, got = read
    assert (got.argmax(axis=1) == wanted.argmax(axis=1)).all()
    assert np.abs(got - wanted).max() < 0.02 * wanted.std()


@pytest.mark.parametrize(
    ("plan", "provider", "said"),
    [
        (mixed("all"), None, "add --static"),
        (mixed(None), "vitisai", "does not multiply int4_channel"),
        (mixed(None), "webgpu", "does not read activations of uint16"),
        (
            Plan(encoding=FEW, rules=[RuleModel(pattern="ffn", encoding="nbits4g32")]),
            None,
            "groups",
        ),
        (Plan(encoding=FEW, rules=[RuleModel(pattern="output", encoding=WIDE)]), None, "its head"),
        (Plan(encoding="nbits4g32", activation_codes="all"), None, "without codes per channel"),
    ],
)
def test_plans_that_cannot_be_are_refused(
    plan: Plan, provider: str | None, said: str, made: Mapping[str, Path], tmp_path: Path
) -> None:
    static = SHAPE if provider == "vitisai" else None
    with pytest.raises(PlanError) as error:
        kanna.convert(
            made["source"],
            tmp_path / "out",
            format="onnx",
            plan=plan,
            static=static,
            provider=provider,
        )
    assert said in str(error.value) and not (tmp_path / "out").exists()
