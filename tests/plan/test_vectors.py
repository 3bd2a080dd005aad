"""What rules of a plan mean: matrices. Norms and biases stay as runtimes need them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanna import plan
from kanna.conversion import ConversionRequest, convert
from kanna.errors import PlanError, UsageError
from kanna.families import load_model
from kanna.formats import gguf
from kanna.model import Model
from kanna.plan import Plan, RuleModel
from kanna.sources import open_source

pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With norms, and biases of every matrix."""
    folder = tmp_path_factory.mktemp("vectors") / "tiny"
    tiny_models.make("llama-bias", folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(open_source(folder))


def ruled(*rules: tuple[str, str]) -> Plan:
    return Plan(preset="Q4_0", rules=[RuleModel(pattern=p, encoding=e) for p, e in rules])


@pytest.mark.parametrize("pattern", ["attn", r"^blk\.0\.", "ffn", ".", "output", "embd", "weight"])
@pytest.mark.parametrize("encoding", ["q8_0", "f16", "bf16", "q6_k"])
def test_a_pattern_leaves_vectors_alone(pattern: str, encoding: str, model: Model) -> None:
    resolved = plan.resolve(model, plan=ruled((pattern, encoding)))
    kinds = {e.encoding.name for e in resolved.entries if len(e.tensor.shape) == 1}
    assert kinds == {"f32"}
    assert any(e.encoding.name == encoding for e in resolved.entries)


@pytest.mark.parametrize("pattern", ["norm", "bias", r"attn_q\.bias", "_norm.weight$"])
def test_a_pattern_of_vectors_alone_is_refused(pattern: str, model: Model) -> None:
    with pytest.raises(PlanError, match="names only norms, biases"):
        plan.resolve(model, plan=ruled((pattern, "q8_0")))


@pytest.mark.parametrize("encoding", ["q8_0", "f16", "bf16", "f32"])
def test_a_vector_named_whole_stays_and_is_listed(encoding: str, model: Model) -> None:
    resolved = plan.resolve(model, plan=ruled((r"^blk\.0\.attn_norm\.weight$", encoding)))
    entry = next(e for e in resolved.entries if e.name == "blk.0.attn_norm.weight")
    assert entry.encoding.name == "f32"
    listed = [s for s in resolved.substitutions if s.name == entry.name]
    assert [s.wanted for s in listed] == ([] if encoding == "f32" else [encoding])


def test_folders_keep_their_vectors_too(folder: Path, tmp_path: Path) -> None:
    request = ConversionRequest(plan=Plan(rules=[RuleModel(pattern="l", encoding="affine8g64")]))
    result = convert(folder, tmp_path / "mlx", request, format="mlx")
    vectors = [row["encoding"] for row in result.tensors if len(row["shape"]) == 1]
    assert vectors and set(vectors) == {"f32"}


REFUSED = {
    "of MLX": (ConversionRequest(encoding="affine4g64"), UsageError, "--format mlx"),
    "of MLX, floats": (ConversionRequest(encoding="mxfp4g32"), UsageError, "--format mlx"),
    "of ONNX": (ConversionRequest(encoding="nbits4g32"), UsageError, "--format onnx"),
    "only read": (ConversionRequest(encoding="f64"), UsageError, ""),
    "of MLX in a rule": (
        ConversionRequest(plan=ruled(("attn_q", "affine4g64"))),
        PlanError,
        "--format mlx",
    ),
    "only read, in a rule": (ConversionRequest(plan=ruled(("attn_q", "i8"))), PlanError, ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_encoding_gguf_has_not_is_refused(case: str, folder: Path, tmp_path: Path) -> None:
    request, kind, todo = REFUSED[case]
    with pytest.raises(kind) as raised:
        convert(folder, tmp_path / "out.gguf", request)
    assert todo in raised.value.todo and not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", ["Q7", "mlx:q7", "onnx:int5", "gguf:Q7", "safetensors:q4"])
def test_an_unknown_preset_is_wrong_usage(preset: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        convert(folder, tmp_path / "out", ConversionRequest(preset=preset))
    assert raised.value.exit_code == 2 and raised.value.expected
    assert not list(tmp_path.iterdir())


def test_floats_of_a_folder_reach_vectors(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "hf", ConversionRequest(encoding="f16"), format="safetensors")
    assert {t.dtype for t in open_source(tmp_path / "hf").tensors.values()} == {"f16"}


def test_a_written_plan_is_read_by_llama_cpp(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from kanna.generation import generate

    request = ConversionRequest(plan=ruled(("attn", "q8_0"), ("embd", "iq4_nl")))
    convert(folder, tmp_path / "out.gguf", request)
    norms = [t.dtype for n, t in gguf.read(tmp_path / "out.gguf").tensors.items() if "norm" in n]
    assert set(norms) == {"f32"}
    assert list(generate(tmp_path / "out.gguf", "hello", max_tokens=2))
