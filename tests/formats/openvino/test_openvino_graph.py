"""OpenVINO's own answers from graphs of kanna's, beside those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import in_process, tiny_models

from kanna import convert
from kanna.errors import FormatError, UnsupportedError, UsageError
from kanna.formats.openvino import MODEL, WEIGHTS, read_folder, tokenizers
from kanna.formats.openvino.read import pages_attention
from kanna.serving.engines.openvino_decoder import OpenVINODecoder
from kanna.serving.engines.openvino_states import StatefulDecoder

pytest.importorskip("openvino")
torch: Any = pytest.importorskip("torch")

RECIPES = (
    "llama",
    "llama-bias",
    "llama3",
    "llama-linear",
    "mistral",
    "mistral-nemo",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "ernie",
    "exaone4",
    "gemma2",
    "gemma3",
    "gemma3-pattern",
    "granite",
    "hunyuan",
    "olmo2",
    "olmo3",
    "phi2",
    "phi3",
    "smollm3",
    "stablelm",
    "stablelm-parallel",
)
LONG = np.random.default_rng(3).integers(3, 490, 80).tolist()
"""Longer than the windows of the recipes."""
IDS = LONG[:48]


@pytest.fixture(autouse=True)
def without_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the tokenizer's graphs, which take two seconds each."""
    monkeypatch.setattr(tokenizers, "make", lambda *_: [])


def kl(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean KL divergence of logits [positions, vocabulary]."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64) - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    p, q = log_softmax(reference), log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def expected(model: Any, ids: list[int] = IDS) -> np.ndarray:
    """What transformers answers after each token."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_graph_of_each_family_is_that_of_transformers(recipe: str, tmp_path: Path) -> None:
    model = tiny_models.make(recipe, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ir", preset="openvino:f32", threads=1)
    with in_process.opened(tmp_path / "ir", context=96) as engine:
        at_once = engine.logits(LONG)
        wanted = expected(model, LONG)
        assert np.abs(at_once - wanted).max() < 2e-3 * np.abs(wanted).max()
        engine.rewind(0)
        parts = [engine.forward(LONG[:50], 1), *(engine.forward([i], 1) for i in LONG[50:])]
        assert kl(wanted[49:], np.concatenate(parts)) < 1e-5


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [("gemma3", OpenVINODecoder), ("olmo3", OpenVINODecoder), ("gemma2", StatefulDecoder)],
)
def test_rows_of_the_gateway_see_the_same_windows(recipe: str, kind: Any, tmp_path: Path) -> None:
    """OpenVINO drops masks where it pages attention: windows stay by the form of their masks."""
    model = tiny_models.make(recipe, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ir", preset="openvino:f32", threads=1)
    assert pages_attention(tmp_path / "ir") == (kind is OpenVINODecoder)
    decoder = kind(tmp_path / "ir", context=96, rows=3, threads=1)
    first, second = decoder.begin(), decoder.begin()
    other = list(reversed(LONG))
    assert decoder.read(first, other[:40], 1).shape == (1, decoder.vocab_size)
    rows = [decoder.read(second, LONG[:30], 30), decoder.read(second, LONG[30:50], 20)]
    rows += [decoder.step([other[40], LONG[50]])[1:]]
    decoder.move(second, first)
    decoder.end(second)
    rows += [decoder.step([token]) for token in LONG[51:]]
    wanted = expected(model, LONG)
    assert np.abs(np.concatenate(rows) - wanted).max() < 2e-3 * np.abs(wanted).max()
    assert decoder.begin() == 1
    assert np.abs(decoder.read(1, LONG[:9], 2) - wanted[7:9]).max() < 2e-3 * np.abs(wanted).max()


def test_states_go_back_to_an_earlier_token(llama: Path, tmp_path: Path) -> None:
    convert(llama, tmp_path / "ir", preset="openvino:f16", threads=1)
    with in_process.opened(tmp_path / "ir", context=64) as engine:
        engine.forward(IDS[:30], 1)
        first = engine.forward(IDS[30:40], 1)
        assert engine.rewind(30) == 30
        assert kl(first, engine.forward(IDS[30:40], 1)) < 1e-4
        assert engine.rewind(12) == 12
        engine.forward(IDS[12:39], 1)
        assert kl(first, engine.forward(IDS[39:40], 1)) < 1e-3
        with pytest.raises(UsageError, match="in a context of 64"):
            engine.logits(IDS * 2)


@pytest.mark.parametrize("encoding", ["nbits4g32", "nbits4g64s", "nbits8g128", "nbits8g32s"])
def test_packed_matrices_are_multiplied_by_their_values(
    encoding: str, llama: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    convert(llama, tmp_path / "ir", format="openvino", encoding=encoding, threads=1)
    held = read_folder(tmp_path / "ir").tensors
    assert held["model.layers.0.mlp.up_proj.weight"].dtype == encoding
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rows = held[name].rows(0, len(parameter) if parameter.ndim > 1 else 1)
            parameter.copy_(torch.tensor(rows.reshape(parameter.shape)))
    with in_process.opened(tmp_path / "ir", context=64) as engine:
        # Inputs are rounded to 8 bits in groups of 32.
        assert kl(expected(model), engine.logits(IDS)) < 1e-2


def test_an_odd_number_of_groups_shares_bytes_between_rows(llama: Path, tmp_path: Path) -> None:
    """Rows of 3 groups end in the middle of a byte of zeros."""
    from kanna import encodings, plan

    source = tmp_path / "source"
    tiny_models.make("mistral-nemo", source)
    rule = {"pattern": "attn_output", "encoding": "nbits4g128", "method": "nearest"}
    chosen = plan.Plan.model_validate({"name": "odd", "encoding": "f16", "rules": [rule]})
    for threads in (1, 3):
        out = tmp_path / f"ir{threads}"
        convert(source, out, format="openvino", plan=chosen, threads=threads)
    held = read_folder(tmp_path / "ir1").tensors["model.layers.1.self_attn.o_proj.weight"]
    assert held.shape[1] // 128 == 3
    values = convert_values(source)
    packed = encodings.get("nbits4g128").encode(values, method="nearest")
    for start, stop in ((0, len(values)), (7, 12), (8, 9)):
        assert (held.raw(start, stop) == packed[start:stop]).all()
    for name in (MODEL, WEIGHTS):
        same = [(tmp_path / f"ir{n}" / name).read_bytes() for n in (1, 3)]
        assert same[0] == same[1]


def convert_values(source: Path) -> np.ndarray:
    """The matrix of the test above, as the source has it."""
    from kanna.formats import safetensors

    tensor = safetensors.read_folder(source)["model.layers.1.self_attn.o_proj.weight"]
    return tensor.rows(0, tensor.shape[0])


def test_other_families_and_encodings_are_refused(llama: Path, tmp_path: Path) -> None:
    for recipe, reason in (
        ("gemma4", "Gemma4ForCausalLM has no OpenVINO graph here"),
        ("phi4-mini", "its rotation of positions is of longrope"),
    ):
        tiny_models.make(recipe, tmp_path / recipe)
        with pytest.raises(UnsupportedError, match=reason):
            convert(tmp_path / recipe, tmp_path / "ir", preset="openvino:int4")
    with pytest.raises(UsageError, match="OpenVINO has no Q4_K"):
        convert(llama, tmp_path / "ir", format="openvino", encoding="q4_k")
    with pytest.raises(UsageError, match="nbits2g32"):
        convert(llama, tmp_path / "ir", format="openvino", encoding="nbits2g32")
    assert not (tmp_path / "ir").exists()


@pytest.fixture(scope="module")
def written(llama: Path) -> Path:
    """A folder without tokenizer graphs."""
    out = llama.parent / "written"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "make", lambda *_: [])
        convert(llama, out, preset="openvino:int4-sym-g64", threads=1)
    return out


DAMAGES = [
    ("<net ", '<!DOCTYPE net [<!ENTITY a "b">]><net ', "document type or entities"),
    ("</layers>", "</layer>", "no graph of OpenVINO"),
    ('offset="0"', 'offset="-1"', "number of elements or bytes"),
    ('offset="0"', 'offset="999999999999"', "ends at 10000"),
    ('element_type="i4"', 'element_type="u4"', "no matrix of codes"),
    ("/scale", "/other", "no matrix of codes"),
]
"""What is replaced in a graph, by what, and what is said of it."""


@pytest.mark.parametrize(("there", "instead", "words"), DAMAGES)
def test_a_damaged_graph_is_refused(
    there: str, instead: str, words: str, written: Path, tmp_path: Path
) -> None:
    text = (written / MODEL).read_text()
    assert there in text
    (tmp_path / MODEL).write_text(text.replace(there, instead, 1))
    (tmp_path / WEIGHTS).write_bytes((written / WEIGHTS).read_bytes())
    with pytest.raises(FormatError, match=words):
        read_folder(tmp_path)


def test_a_file_of_weights_cut_short_is_refused(written: Path, tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes((written / MODEL).read_bytes())
    (tmp_path / WEIGHTS).write_bytes((written / WEIGHTS).read_bytes()[:-4096])
    with pytest.raises(FormatError, match="a complete file"):
        read_folder(tmp_path)
