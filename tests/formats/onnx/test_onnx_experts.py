"""Experts in ONNX folders: QMoE nodes compute with the weights we chose, in stock onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.onnx_logits import logits

import kanna
from kanna import encodings
from kanna._util.progress import Silent
from kanna.encodings.grouped.nbits import parse
from kanna.errors import PlanError
from kanna.formats.onnx.graph_data import GraphData, Matrix, StoredMatrix
from kanna.formats.onnx.in_turn import InTurn
from kanna.formats.stored import stored
from kanna.formats.stored_file import StoredFile
from kanna.formats.stream import File, fill
from kanna.plan import Plan, RuleModel, TensorPlan

genai: Any = pytest.importorskip("onnxruntime_genai")
torch = pytest.importorskip("torch")

EXACT: dict[str, Any] = {"accuracy": 0, "method": "nearest"}
LIMIT = 2e-5
"""Largest difference of logits, in their standard deviations; 6e-6 was measured."""
EIGHT_BITS = 1e-4
"""Mean KL divergence in nats; 1.1e-5 was measured. QMoE of 8 bits rounds its inputs, too."""
CASES = [
    pytest.param("qwen3-moe", "nbits4g32"),
    pytest.param("gpt-oss", "nbits4g16s_f32"),  # biases, transposed, another activation
    # As these two, through the same nodes:
    pytest.param("mixtral", "nbits4g32s", marks=pytest.mark.slow),
    pytest.param("olmoe", "nbits4g16", marks=pytest.mark.slow),
    pytest.param("qwen2-moe", "nbits4g32_f32", marks=pytest.mark.slow),
    pytest.param("granite-moe", "nbits4g32", marks=pytest.mark.slow),
    pytest.param("granite-moe-shared", "nbits4g32s_f32", marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def _distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder takes a matrix for the head when both have as many rows."""
    monkeypatch.setitem(tiny_models.SMALL, "vocab_size", 544)
    monkeypatch.setitem(tiny_models.SMALL, "num_hidden_layers", 2)


def round_experts(model: Any, encoding: str, *, turned: bool) -> None:
    """Give transformers' model the values that an encoding holds of its experts."""
    kind = encodings.get(encoding)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not (name.endswith(("gate_up_proj", "down_proj")) and weight.ndim == 3):
                continue
            values = weight.transpose(1, 2) if turned else weight
            x = np.ascontiguousarray(values.numpy()).reshape(-1, values.shape[2])
            held = torch.tensor(kind.decode(kind.encode(x, method="nearest"), x.shape[1]))
            held = held.reshape(values.shape)
            weight.copy_(held.transpose(1, 2) if turned else held)


def wanted(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(ids)).logits[0].numpy()


@pytest.mark.parametrize(("name", "encoding"), CASES)
def test_a_node_computes_the_values_we_chose(name: str, encoding: str, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    model = tiny_models.make(name, source)
    plan = Plan(encoding="f32", rules=[RuleModel(pattern="_exps", encoding=encoding, **EXACT)])
    promised = kanna.convert(source, format="onnx", plan=plan, dry_run=True)
    made = kanna.convert(source, out, format="onnx", plan=plan, threads=2)
    assert [t["bytes"] for t in made.tensors] == [t["bytes"] for t in promised.tensors]
    round_experts(model, encoding, turned=name == "gpt-oss")
    ids = np.random.default_rng(0).integers(3, 500, (1, 90))
    reference = wanted(model, ids)
    assert np.abs(logits(out, ids) - reference).max() < LIMIT * reference.std()


def operators(folder: Path) -> dict[str, dict[str, int]]:
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    return {n.name: {a.name: a.i for a in n.attribute} for n in graph.node if n.op_type == "QMoE"}


def test_experts_of_a_layer_share_the_widest_codes_in_the_smallest_groups(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    model = tiny_models.make("mixtral", source)
    rules = [
        RuleModel(pattern=r"1\.ffn_up_exps", encoding="nbits8g32"),
        RuleModel(pattern=r"1\.ffn_down_exps", encoding="nbits4g16s"),
        RuleModel(pattern=r"1\.ffn_gate_exps", encoding="nbits4g64"),
        RuleModel(pattern=r"0\.ffn_(gate|up)_exps", encoding="nbits4g32"),
    ]
    plan = Plan(encoding="f32", rules=rules)
    made = kanna.convert(source, out, format="onnx", plan=plan, threads=2)
    kinds = {t["name"]: t["encoding"] for t in made.tensors if "_exps" in t["name"]}
    assert {kinds[f"blk.1.ffn_{k}_exps.weight"] for k in ("gate", "up", "down")} == {"nbits8g16"}
    # The downs of the other layer stay float, and with them the whole node.
    assert {kinds[f"blk.0.ffn_{k}_exps.weight"] for k in ("gate", "up", "down")} == {"f32"}
    [(name, node)] = operators(out).items()
    assert name == "/model/layers.1/moe/MoE"
    assert (node["expert_weight_bits"], node["block_size"], node["k"]) == (8, 16, 2)
    ids = np.random.default_rng(0).integers(3, 500, (1, 90))
    p, q = (
        x - np.logaddexp.reduce(x, -1, keepdims=True)
        for x in (wanted(model, ids), logits(out, ids))
    )
    assert (np.exp(p) * (p - q)).sum(-1).mean() < EIGHT_BITS
    params = genai.GeneratorParams(loaded := genai.Model(str(out)))
    params.set_search_options(max_length=24, do_sample=False)
    generator = genai.Generator(loaded, params)
    generator.append_tokens(np.array([1, 5, 9], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    written = np.array([generator.get_sequence(0)], np.int64)
    best = logits(out, written).argmax(axis=1)
    assert len(written[0]) > 3 and np.mean(best[2:-1] == written[0, 3:]) > 0.9


def test_experts_of_two_bits_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    tiny_models.make("mixtral", tmp_path)
    with pytest.raises(PlanError, match="no experts of 2 bits") as error:
        kanna.convert(tmp_path, format="onnx", encoding="nbits2g32", dry_run=True)
    assert "nbits4g32" in (error.value.expected or "")


def test_rows_take_turns_wherever_a_block_begins() -> None:
    parts = [np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 100 * n for n in range(2)]
    turns = InTurn(
        "both",
        [stored(str(n), p.shape, "f32", p.view(np.uint8).reshape(-1)) for n, p in enumerate(parts)],
    )
    whole = np.stack(parts, axis=2).reshape(12, 4)
    for start in range(12):
        for stop in range(start + 1, 13):
            assert (turns.rows(start, stop) == whole[start:stop]).all()
            raw = turns.raw(start, stop)
            assert raw is not None and (raw.view(np.float32) == whole[start:stop]).all()


def test_what_is_written_in_turn_is_read_back_stack_by_stack(tmp_path: Path) -> None:
    kind = parse("nbits4g32")
    assert kind is not None
    encoding, rng = encodings.get("nbits4g32"), np.random.default_rng(0)
    values = [rng.standard_normal((3, rows, 96), np.float32) for rows in (5, 5, 7)]
    entries = [
        TensorPlan(
            name=str(n),
            tensor=stored(str(n), x.shape, "f32", x.view(np.uint8).reshape(-1)),
            encoding=encoding,
            method="nearest",
        )
        for n, x in enumerate(values)
    ]
    data = GraphData(tmp_path)
    both = Matrix(kind=kind, parts=entries[:2], accuracy=4, experts=3)
    places = [data.matrix("both", both)] * 2
    down = Matrix(kind=kind, parts=entries[2:], accuracy=4, experts=3)
    places.append(data.matrix("down", down))
    file = File(
        path=tmp_path / "data",
        header=b"",
        offsets=data.offsets,
        tensors=data.tensors,
        total_bytes=data.end,
        spread=data.spread,
    )
    fill([file], threads=2, progress=Silent(), nonfinite="refuse", stage="write")
    for entry, place, x in zip(entries, places, values, strict=True):
        held = StoredMatrix(entry, place, StoredFile(tmp_path / "data"))
        flat = x.reshape(-1, 96)
        wanted = encoding.decode(encoding.encode(flat, method="nearest"), 96)
        assert held.nbytes == len(flat) * encoding.row_bytes(96)
        assert (held.rows(0, len(flat)) == wanted).all()
        assert (held.rows(3, 8) == wanted[3:8]).all()
