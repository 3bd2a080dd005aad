"""Weight-only ONNX folders.

They compute the model with the weights we chose, in stock onnxruntime and genai.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.onnx_logits import logits

import kanna
from kanna import encodings, families
from kanna._util import extras
from kanna.encodings.grouped.nbits import parse
from kanna.errors import OutputError, PlanError, UnsupportedError, UsageError
from kanna.plan import Plan, RuleModel
from kanna.sources import open_source
from kanna.verification.parity import stored_weights


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    folder.mkdir()
    tiny_models.make("llama", folder)
    return folder


EXACT: dict[str, Any] = {"accuracy": 0, "method": "nearest"}
NIBBLES = EXACT | {"encoding": "nbits4g32"}


@pytest.fixture(autouse=True)
def _distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder takes a layer for the head when both have as many rows."""
    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 640)
    monkeypatch.setitem(tiny_models.SMALL, "vocab_size", 544)
    monkeypatch.setitem(tiny_models.SMALL, "num_hidden_layers", 2)


def rounded(source: Path, model: Any, chosen: dict[str, str]) -> Any:
    """The model of transformers with the values that each encoding holds of its matrices."""
    import torch

    ours = families.load_model(open_source(source))
    names = {theirs: name for name, theirs in families.hf_names(ours).items()}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            encoding = encodings.get(chosen.get(names.get(name, ""), "f32"))
            if encoding.block > 1 and weight.ndim == 2:
                x = np.ascontiguousarray(weight.numpy())
                data = encoding.encode(x, method="nearest")
                weight.copy_(torch.tensor(encoding.decode(data, x.shape[1])))
    return model


def nodes(folder: Path, kind: str) -> dict[str, dict[str, int]]:
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    return {n.name: {a.name: a.i for a in n.attribute} for n in graph.node if n.op_type == kind}


def parity(source: Path, out: Path, model: Any, chosen: dict[str, str]) -> None:
    import torch

    rounded(source, model, chosen)
    ids = np.random.default_rng(0).integers(3, 500, (1, 40))
    with torch.no_grad():
        wanted = model(torch.tensor(ids)).logits[0].numpy()
    assert np.abs(logits(out, ids) - wanted).max() < 2e-3 * wanted.std()


@pytest.mark.parametrize("name", ["llama-bias", "qwen3", "gemma2", "gemma3-pattern", "phi4-mini"])
def test_every_node_computes_the_values_we_chose(name: str, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    model = tiny_models.make(name, source)
    rules = [
        RuleModel(pattern="ffn_down", encoding="nbits8g64", **EXACT),
        RuleModel(pattern="attn_[qkv]+.weight", encoding="nbits4g16s", **EXACT),
        RuleModel(pattern=r"(token_embd|attn_output)\.weight", encoding="nbits4g128", **EXACT),
    ]
    if name == "phi4-mini":  # one matrix of gate and up
        rules.append(RuleModel(pattern="ffn_up", encoding="nbits2g32_f32", **EXACT))
    else:
        rules.append(RuleModel(pattern="ffn_gate", encoding="nbits2g32_f32", **EXACT))
        rules.append(RuleModel(pattern="ffn_up", encoding="f32"))
    if not model.config.tie_word_embeddings:
        rules.append(RuleModel(pattern="output.weight", encoding="nbits8g32s", **EXACT))
    made = kanna.convert(source, out, format="onnx", plan=Plan(rules=rules), threads=2)
    parity(source, out, model, {t["name"]: t["encoding"] for t in made.tensors})
    assert {a["bits"] for a in nodes(out, "MatMulNBits").values()} >= {2, 4, 8}
    assert len(nodes(out, "GatherBlockQuantized")) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_tied_head_and_embedding_share_their_bytes_until_a_plan_parts_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    model = tiny_models.make("smollm", source)
    sizes: dict[str, int] = {}
    head = RuleModel(pattern="^output.weight$", encoding="nbits8g32", **EXACT)
    for kind, rules in (("tied", []), ("parted", [head])):
        out = tmp_path / kind
        rules = [*rules, RuleModel(pattern="token_embd", encoding="nbits4g32", **EXACT)]
        made = kanna.convert(source, out, format="onnx", plan=Plan(encoding="f32", rules=rules))
        sizes[kind] = (out / "model.onnx.data").stat().st_size
        if kind == "tied":
            parity(source, out, model, {t["name"]: t["encoding"] for t in made.tensors})
        else:
            assert nodes(out, "MatMulNBits")["/lm_head/MatMul"]["bits"] == 8
            assert nodes(out, "GatherBlockQuantized")["/model/embed_tokens/Gather"]["bits"] == 4
    rows, cols = model.get_input_embeddings().weight.shape
    kind = parse("nbits8g32")
    assert kind is not None
    assert sizes["parted"] - sizes["tied"] == rows * kind.row_bytes(cols)


def test_presets_generate_in_genai_and_say_how_they_were_made(tiny: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime_genai as genai

    out = tmp_path / "out"
    promised = kanna.convert(tiny, preset="onnx:int4-mixed", dry_run=True)
    made = kanna.convert(tiny, out, preset="onnx:int4-mixed", threads=1)
    assert [t["bytes"] for t in made.tensors] == [t["bytes"] for t in promised.tensors]
    said = {
        p.key: p.value
        for p in onnx.load(str(out / "model.onnx"), load_external_data=False).metadata_props
    }
    assert (
        said["kanna.command"].endswith("--preset onnx:int4-mixed") and "kanna.source.sha256" in said
    )
    model = genai.Model(str(out))
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=24, do_sample=False)
    generator = genai.Generator(model, options)
    generator.append_tokens(np.array([1, 5, 9], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    ids = np.array([generator.get_sequence(0)], np.int64)
    best = logits(out, ids).argmax(axis=1)
    assert len(ids[0]) > 3 and list(best[2:-1]) == list(ids[0, 3:])


def test_the_matrices_of_one_node_share_the_widest_encoding(tiny: Path) -> None:
    rules = [
        RuleModel(pattern="attn_v", encoding="nbits8g32"),
        RuleModel(pattern="attn_[qk]", encoding="nbits4g32"),
    ]
    made = kanna.convert(tiny, format="onnx", plan=Plan(encoding="f32", rules=rules), dry_run=True)
    assert {t["encoding"] for t in made.tensors if "attn_q" in t["name"]} == {"nbits8g32"}
    assert {(s.wanted, s.got) for s in made.substitutions} == {("nbits4g32", "nbits8g32")}


def test_products_without_a_kernel_are_named(tiny: Path) -> None:
    rules = [
        RuleModel(pattern="ffn_down", encoding="nbits8g32", **EXACT),
        RuleModel(pattern="attn_output", **NIBBLES),
    ]
    made = kanna.convert(tiny, format="onnx", plan=Plan(encoding="f32", rules=rules), dry_run=True)
    [note] = [n for n in made.notes if "widens the matrix" in n]
    assert "accuracy 0 of blk.0.ffn_down.weight and 1 more" in note
    usual = kanna.convert(tiny, preset="onnx:w8", dry_run=True)
    assert not any("widens" in n for n in usual.notes)


def test_what_cannot_be_is_said_before_anything_is_built(tiny: Path, tmp_path: Path) -> None:
    def convert(**how: Any) -> None:
        kanna.convert(tiny, tmp_path / "out", format="onnx", **how)

    with pytest.raises(UnsupportedError, match="no groups of 48"):
        convert(encoding="nbits4g48")
    with pytest.raises(PlanError, match="no operator of onnxruntime multiplies by q4_k"):
        convert(encoding="q4_k")
    with pytest.raises(UsageError, match="needs statistics"):
        convert(encoding="nbits4g32", method="gptq")
    with pytest.raises(UsageError, match="no preset"):
        convert(preset="q4")
    with pytest.raises(UsageError, match="preset of GGUF"):
        convert(plan=Plan(preset="Q4_K_M"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other.txt").write_text("mine")
    with pytest.raises(OutputError):
        convert(preset="int4")


def test_groups_that_do_not_divide_the_rows_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny_models.SMALL, "hidden_size", 192)
    tiny_models.make("llama", tmp_path)
    with pytest.raises(PlanError, match="rows have 192 values") as error:
        kanna.convert(tmp_path, format="onnx", encoding="nbits4g128", dry_run=True)
    assert "groups of 64" in (error.value.todo or "")


def test_nodes_round_their_inputs_unless_a_rule_says_otherwise(tiny: Path, tmp_path: Path) -> None:
    rules = [
        RuleModel(pattern="attn_output", **NIBBLES),
        RuleModel(pattern="ffn_down", encoding="nbits4g32"),
    ]
    kanna.convert(tiny, tmp_path / "out", format="onnx", plan=Plan(encoding="f32", rules=rules))
    levels = {
        name.split("/")[4]: a["accuracy_level"]
        for name, a in nodes(tmp_path / "out", "MatMulNBits").items()
    }
    assert levels == {"o_proj": 0, "down_proj": 4}
    stored = stored_weights(tmp_path / "out")
    assert stored.rounded_inputs == "inputs of products rounded to 8 bits, but not of o_proj"
    assert stored.activation_bits is None


def test_a_missing_package_is_named_with_its_command(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanna.errors import MissingError
    from kanna.formats.onnx import build

    monkeypatch.setattr(build, "NEEDED", ("onnxruntime_genai_that_is_not_there",))
    monkeypatch.setattr(build.require, "__defaults__", (build.NEEDED,))
    with pytest.raises(MissingError) as error:
        kanna.convert(tiny, tmp_path / "out", preset="onnx:int4")
    assert error.value.todo == extras.command("onnx")


def test_rows_of_planes_are_counted_as_they_are_written() -> None:
    for name in ("nbits4g32", "nbits2g16", "nbits8g64s_f32", "nbits4g64"):
        kind, encoding = parse(name), encodings.get(name)
        assert kind is not None
        from kanna.formats.onnx.packing import split

        planes = split(kind, encoding.encode(np.ones((3, 320), np.float32)))
        assert sum(p.shape[1] for p in planes if p is not None) == kind.row_bytes(320)
