"""Profiles of execution providers: what each says, what none may say, and what refuses a node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import profiles
from helpers.profiles import known

from kanna.conversion import onnx_provider
from kanna.errors import FormatError, KannaError, PlanError, UsageError
from kanna.hardware import providers
from kanna.hardware.figures import BASES
from kanna.hardware.providers import placement
from kanna.hardware.providers.reading import read


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder without profiles of its own."""
    monkeypatch.setenv("KANNA_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config" / "providers"


def good() -> dict[str, Any]:
    """A profile as a user would write it."""
    return {
        "title": "A board's NPU",
        "provider": "BoardExecutionProvider",
        "genai": "board",
        "device": "npu",
        "package": "board-sdk",
        "options": {"mode": "fast"},
        "checked": "2026-11-30",
        "opset": known(21),
        "static_shapes": known(True),
        "layout": known("any"),
        "operators": {
            "basis": "measured",
            "source": "my desk",
            "names": {"MatMul": ["float"], "Add": "any"},
        },
    }


def changed(path: str, value: object) -> dict[str, Any]:
    """The good profile with one value changed, or taken out where it is None."""
    return profiles.changed(good(), path, value)


@pytest.mark.parametrize("name", providers.names())
def test_every_figure_says_where_it_comes_from(name: str) -> None:
    profile = providers.get(name)
    for place, figure in profile.figures().items():
        assert figure.basis in BASES and len(figure.source) > 5, place
    assert len(profile.operators.source) > 20 and "MatMul" in profile.operators.types
    assert providers.get(profile.provider) == profile
    assert profile.takes_groups == (profile.bits is not None)


def test_the_providers_that_people_ask_for_are_there() -> None:
    asked = {"cpu", "cuda", "dml", "webgpu", "qnn", "openvino", "coreml", "xnnpack", "vitisai"}
    assert asked <= set(providers.names())


def test_a_profile_of_the_user_counts(own: Path) -> None:
    own.mkdir(parents=True)
    (own / "board.yaml").write_text(yaml.safe_dump(good()))
    (own / "qnn.yaml").write_text(yaml.safe_dump(changed("title", "mine")))
    assert providers.get("board").options == {"mode": "fast"}
    assert providers.get("qnn").title == "mine"


@pytest.mark.parametrize(("text", "near"), [("qun", "qnn"), ("openvno", "openvino"), ("", "cpu")])
def test_an_unknown_provider_gets_near_names(text: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        providers.get(text)
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("title", None, "has no title"),
        ("provider", "QNN", "NAMEExecutionProvider"),
        ("device", "tpu", "cpu or gpu or npu"),
        ("checked", "yesterday", "a day such as"),
        ("opset", None, "has no opset"),
        ("opset/value", 3, "opset"),
        ("opset/basis", "guessed", "published or measured"),
        ("static_shapes/value", "no", "static_shapes"),
        ("layout/value", "WHCN", "NHWC"),
        ("operators/names", {}, "has no operators.names"),
        ("operators/names/MatMul", ["floaty"], "any, or a list of"),
        ("operators/names/matmul", "any", "an operator such as MatMul"),
        ("colour", "red", "which no profile has"),
    ],
)
def test_a_profile_that_is_not_right_is_named(
    path: str, value: object, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(FormatError) as caught:
        read(file)
    assert words in str(caught.value) and "docs/providers.md" in str(caught.value)


def test_the_table_of_the_processor_is_that_of_the_library() -> None:
    """Every operator and type of the profile has a kernel in the onnxruntime that is installed."""
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    kernels: dict[str, set[str]] = {}
    for kernel in state.get_all_opkernel_def():
        domain = f"{kernel.domain}." if kernel.domain else ""
        types = {t for ts in kernel.type_constraints.values() for t in ts}
        kernels.setdefault(f"{domain}{kernel.op_name}", set()).update(types)
    functions = {"DynamicQuantizeLinear"}  # has one kernel whose types have no names
    for name, kinds in providers.get("cpu").operators.types.items():
        assert name in kernels or name in functions, name
        for kind in kinds or () if name not in functions else ():
            assert f"tensor({kind})" in kernels[name], (name, kind)


def graph(*nodes: Any, shape: str | int = 4) -> Any:
    """A graph that reads `x` f32 [shape] and a matrix `w`."""
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [shape])
    held = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    return helper.make_model(helper.make_graph(list(nodes), "g", [given], [], [held]))


def node(operator: str, given: list[str], out: str, domain: str = "", **options: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, given, [out], f"/{out}", domain=domain, **options)


def test_a_refused_node_is_told_with_operator_type_and_what_to_do() -> None:
    pytest.importorskip("onnx")
    qnn = providers.get("qnn")
    taken = node("Add", ["x", "w"], "a")
    grouped = node("MatMulNBits", ["a", "w"], "b", "com.microsoft", K=4, N=4, bits=4, block_size=32)
    table = placement.place(graph(taken, grouped, node("Mul", ["b", "w"], "c")), qnn)
    assert (table.nodes, table.partitions, len(table.products)) == (3, 2, 1)
    words = table.refused[0].sentence()
    assert "/b (MatMulNBits of float)" in words and "onnx:w8a16" in words
    assert table.sentence() == "2 of 3 nodes in 2 parts; not: 1 MatMulNBits of float"
    wide = placement.place(graph(node("Add", ["x", "w"], "a"), shape="n"), qnn)
    assert "--static" in wide.refused[0].todo and "the length of x" in wide.refused[0].reason


def test_types_are_followed_through_codes_and_casts() -> None:
    onnx = pytest.importorskip("onnx")
    codes = node("QuantizeLinear", ["x", "w", "z"], "q")
    nodes = [codes, node("DequantizeLinear", ["q", "w", "z"], "d"), node("Not", ["b"], "n")]
    made = graph(node("Cast", ["x"], "b", to=onnx.TensorProto.BOOL), *nodes)
    zero = onnx.helper.make_tensor("z", onnx.TensorProto.UINT16, [], [0])
    made.graph.initializer.append(zero)
    assert placement.place(made, providers.get("cpu")).refused == []
    refused = placement.place(made, providers.get("cuda")).refused
    assert [(n.operator, n.type) for n in refused] == [
        ("QuantizeLinear", "uint16"),
        ("DequantizeLinear", "uint16"),
    ]


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: onnx_provider.wanted("qnn", None), UsageError, "--static 64x1024"),
        (
            lambda: onnx_provider.check_encodings(providers.get("qnn"), ["nbits4g32"]),
            PlanError,
            "onnx:w8a16",
        ),
        (
            lambda: onnx_provider.check_encodings(providers.get("webgpu"), ["f32", "nbits2g32"]),
            PlanError,
            "bits 4 in groups of",
        ),
        (
            lambda: onnx_provider.check_derived(providers.get("cuda"), "w8a16"),
            PlanError,
            "activations of uint16",
        ),
    ],
)
def test_what_a_provider_does_not_multiply_is_refused(
    call: Any, kind: type[KannaError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)
    onnx_provider.check_encodings(providers.get("cpu"), ["nbits2g16", "f32"])
    onnx_provider.check_derived(providers.get("qnn"), "w4a16")


def test_graphs_are_brought_to_the_opset_of_a_provider() -> None:
    """Where an older operator says the same, with the type that is read; else that is the error."""
    onnx = pytest.importorskip("onnx")

    def in_22(*nodes: Any) -> Any:
        made = graph(*nodes)
        made.opset_import[0].version = 22
        return made

    old = profiled(opset=known(21))
    plain = in_22(node("Add", ["x", "w"], "a"), node("LpNormalization", ["a"], "l", p=2))
    plain.graph.node.append(node("SimplifiedLayerNormalization", ["a", "w"], "s"))
    onnx_provider.fit(plain, old)
    assert plain.opset_import[0].version == 21
    zero = onnx.helper.make_tensor("z", onnx.TensorProto.UINT16, [], [0])
    codes = in_22(node("QuantizeLinear", ["x", "w", "z"], "q"))
    codes.graph.initializer.append(zero)
    with pytest.raises(
        PlanError, match="opset 22 and board reads 17 .*newer: QuantizeLinear of float"
    ):
        onnx_provider.fit(codes, profiled(opset=known(17)))
    assert codes.opset_import[0].version == 22


def test_pictures_in_another_layout_are_refused() -> None:
    pytest.importorskip("onnx")
    picture = graph(node("Conv", ["x", "w"], "c"))
    onnx_provider.fit(picture, profiled(opset=known(30), layout=known("NCHW")))
    with pytest.raises(PlanError, match="channels first, and board reads NHWC"):
        onnx_provider.fit(picture, profiled(opset=known(30), layout=known("NHWC")))


def profiled(**figures: Any) -> providers.ProviderProfile:
    """The good profile with other figures."""
    home = Path(os.environ["KANNA_CONFIG"]) / "providers"
    home.mkdir(parents=True, exist_ok=True)
    (home / "board.yaml").write_text(yaml.safe_dump(good() | figures))
    return providers.get("board")
