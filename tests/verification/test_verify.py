"""The gate: right artefacts pass, damaged ones fail, what cannot be proved is not proved."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanna import convert, encodings
from kanna.errors import SourceError, UsageError
from kanna.families import load_model
from kanna.families.views import Computed
from kanna.formats import gguf
from kanna.formats.views import Refolded, Renamed
from kanna.model import MetaValue, boolean, columns, num_rows, u32
from kanna.plan import Plan, RuleModel, TensorPlan
from kanna.runtimes import llamacpp
from kanna.sources import open_source, packages
from kanna.verification import VerifyResult, verify
from kanna.verification.parity import decisive_bits
from kanna.verification.tensors import bound, error, sample, stored_as

pytestmark = pytest.mark.skipif(not llamacpp.RUNTIME.available().ok, reason="needs llama.cpp")
pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    tiny_models.make("llama3", folder)
    return folder


@pytest.fixture(scope="module")
def good(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.gguf"
    convert(source, path, encoding="q8_0")
    return path


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """References of these tests go to a folder of their own."""
    monkeypatch.setattr("kanna.sources.packages.cache_dir", lambda: tmp_path_factory.getbasetemp())


def failed(result: VerifyResult) -> list[str]:
    return [c.name for c in result.checks if c.ok is False]


class Changed:
    """A tensor whose values go through a function."""

    def __init__(self, tensor: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.name, self.shape, self.dtype, self.nbytes = (
            tensor.name,
            tensor.shape,
            "f32",
            tensor.nbytes,
        )
        self._values = change(tensor.rows(0, num_rows(tensor)).copy())

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._values[start:stop]

    def raw(self, start: int, stop: int) -> None:
        return None


def rewrite(
    good: Path,
    out: Path,
    *,
    metadata: dict[str, MetaValue | None] | None = None,
    values: dict[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    drop: str = "",
) -> Path:
    """Write `good` again with some of it changed."""
    file = gguf.read(good)
    keys = {k: v for k, v in {**file.metadata, **(metadata or {})}.items() if v is not None}
    plans: list[TensorPlan] = []
    for name, tensor in file.tensors.items():
        changed = Changed(tensor, values[name]) if values and name in values else tensor
        if name != drop:
            plans.append(
                TensorPlan(name=name, tensor=changed, encoding=encodings.get(tensor.dtype))
            )
    gguf.write(out, metadata=keys, tensors=plans)
    return out


@pytest.mark.parametrize("encoding", ["f32", "bf16", "q8_0", "q4_k", "q2_k"])
def test_right_artefacts_are_proved(encoding: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    convert(source, path, encoding=encoding)
    result = verify(source, path, threads=1)
    assert result.status == "proved", result.checks
    names = [c.name for c in result.checks]
    assert len(names) == len(set(names)) == 9
    assert "reference against transformers" in names
    data = result.to_dict()
    assert data["status"] == "proved"
    assert set(data["checks"][0]) == {"name", "ok", "detail"}


def test_a_missing_or_added_tensor(source: Path, good: Path, tmp_path: Path) -> None:
    result = verify(source, rewrite(good, tmp_path / "a.gguf", drop="blk.1.ffn_up.weight"))
    assert failed(result) == ["tensors present"]
    assert "missing blk.1.ffn_up.weight" in result.checks[0].detail
    assert result.status == "failed"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda w: w[::-1].copy(), id="rows reversed"),
        pytest.param(lambda w: np.roll(w, 1, axis=1), id="columns shifted"),
        pytest.param(lambda w: w * 1.05, id="scaled by 5 %"),
        pytest.param(lambda w: w * 0, id="zeros"),
        pytest.param(lambda w: -w, id="sign"),
        pytest.param(
            lambda w: np.vstack([w[: len(w) // 2], w[: len(w) - len(w) // 2]]), id="half repeated"
        ),
    ],
)
def test_wrong_values(
    damage: Callable[[np.ndarray], np.ndarray], source: Path, good: Path, tmp_path: Path
) -> None:
    path = rewrite(good, tmp_path / "a.gguf", values={"blk.0.attn_q.weight": damage})
    result = verify(source, path, threads=1)
    assert failed(result) == ["tensor values"]
    assert "blk.0.attn_q.weight" in next(c.detail for c in result.checks if c.ok is False)


def test_values_that_are_no_numbers(source: Path, good: Path, tmp_path: Path) -> None:
    file = gguf.read(good)
    start = len(good.read_bytes()) - sum(-(-t.nbytes // 32) * 32 for t in file.tensors.values())
    data = bytearray(good.read_bytes())
    name = next(n for n, t in file.tensors.items() if t.dtype == "q8_0")
    offset = start
    for other, tensor in file.tensors.items():
        if other == name:
            break
        offset += -(-tensor.nbytes // 32) * 32
    data[offset : offset + 2] = b"\x00\x7e"  # the scale of the first block becomes NaN
    path = tmp_path / "nan.gguf"
    path.write_bytes(data)
    result = verify(source, path, threads=1)
    assert failed(result) == ["tensor values"]
    assert "not finite" in next(c.detail for c in result.checks if c.ok is False)


def test_lost_or_changed_metadata(source: Path, good: Path, tmp_path: Path) -> None:
    file = gguf.read(good)
    template = file.metadata["tokenizer.chat_template"]
    cases: dict[str, tuple[dict[str, MetaValue | None], str]] = {
        "lost template": ({"tokenizer.chat_template": None}, "chat template"),
        "other template": (
            {
                "tokenizer.chat_template": replace(
                    template, value=template.value.replace("im_end", "im_END")
                )
            },
            "chat template",
        ),
        "other end": ({"tokenizer.ggml.eos_token_id": u32(5)}, "end of turn"),
        "other context": ({"llama.context_length": u32(64)}, "context and hyperparameters"),
        "other rope": (
            {"llama.rope.freq_base": replace(file.metadata["llama.rope.freq_base"], value=10000.0)},
            "context and hyperparameters",
        ),
        "other pre-tokenizer": (
            {"tokenizer.ggml.pre": replace(file.metadata["tokenizer.ggml.pre"], value="smollm")},
            "tokenizer",
        ),
    }
    for case, (change, check) in cases.items():
        path = rewrite(good, tmp_path / f"{case}.gguf", metadata=change)
        result = verify(source, path, threads=1)
        assert check in failed(result), (case, result.checks)


def test_a_file_that_is_no_gguf_fails(source: Path, good: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    result = verify(source, cut)
    assert (result.status, failed(result)) == ("failed", ["file"])
    with pytest.raises(UsageError, match="does not exist"):
        verify(source, tmp_path / "absent.gguf")
    with pytest.raises(SourceError):
        verify(tmp_path / "absent", good)


def test_another_model_fails(good: Path, tmp_path: Path) -> None:
    tiny_models.make("llama3", tmp_path, seed=1)
    assert failed(verify(tmp_path, good, threads=1)) == ["tensor values"]


def test_without_llama_cpp_nothing_is_proved(
    source: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("llama_cpp", "xllamacpp", "llama_cpp_py_sync"):
        monkeypatch.setitem(sys.modules, module, None)
    result = verify(source, good)
    assert result.status == "unprovable"
    assert {c.name for c in result.checks if c.ok is None} >= {"tokenizer", "logits, long prompt"}
    assert "pip install" in next(c.detail for c in result.checks if c.ok is None)


def test_the_reference_is_made_once(source: Path, good: Path) -> None:
    folder = packages.cache_dir() / "references"
    shutil.rmtree(folder, ignore_errors=True)
    verify(source, good, threads=1)
    [made] = folder.glob("*.gguf")
    stamp = made.stat().st_mtime_ns, made.stat().st_ino
    verify(source, good, threads=1)
    [again] = folder.glob("*.gguf")
    assert again.stat().st_ino == stamp[1]


def test_a_gguf_source(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.gguf"
    convert(good, path, encoding="q5_k")
    result = verify(good, path, threads=1)
    assert result.status == "proved", result.checks
    assert any("metadata equal" in c.detail for c in result.checks if c.name == "tokenizer")


def test_what_llama_cpp_implies_need_not_be_said(good: Path, tmp_path: Path) -> None:
    """A byte-level tokenizer adds no space in front, whether the file says so or not.

    SentencePiece does.
    """
    from kanna.verification.tokens import _not_carried

    key = "tokenizer.ggml.add_space_prefix"
    model = load_model(
        open_source(rewrite(good, tmp_path / "a.gguf", metadata={key: boolean(False)}))
    )
    without = rewrite(good, tmp_path / "b.gguf", metadata={key: None})
    assert model.meta("tokenizer.ggml.model") == "gpt2" and _not_carried(model, without) == []
    model.metadata[key] = boolean(True)
    assert _not_carried(model, without) == [key]


@dataclass
class StoredHalves:
    """Values of a file in half precision."""

    name: str
    shape: tuple[int, ...]
    inner: Computed
    dtype: str = "f16"
    nbytes: int = 64

    def rows(self, start: int, stop: int) -> Any:
        return self.inner.rows(0, 4).reshape(1, -1)[start:stop]

    def raw(self, start: int, stop: int) -> None:
        return None


def test_bounds_tell_right_from_wrong() -> None:
    x = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    for name in (
        "f32",
        "bf16",
        "f16",
        "q8_0",
        "q6_k",
        "q5_k",
        "q4_k",
        "q4_0",
        "q3_k",
        "q2_k",
        "iq4_nl",
        "mxfp4",
    ):
        encoding = encodings.get(name)
        got = encoding.decode(encoding.encode(x), 512)
        assert error(x, got) <= bound(name), name
        assert error(x, np.roll(got, 1, axis=0)) > bound(name), name
        heavy = (x**3).astype(np.float32)
        assert error(heavy, encoding.decode(encoding.encode(heavy), 512)) <= bound(name), name
    assert error(x * 0, x * 0) == 0
    assert error(x * 0, x) == np.inf


def test_a_view_that_computes_from_halves_has_no_more_digits_than_they() -> None:
    values = Computed("x", np.ones((4, 8), np.float32))
    halves = StoredHalves("x", (32,), values)
    assert stored_as(Refolded("x", Renamed("x", halves), (4, 8))) == "f16"
    assert stored_as(Refolded("x", values, (32,))) == "f32" and stored_as(halves) == "f16"


def test_samples_reach_from_the_first_row_to_the_last() -> None:
    assert sample(10, 64) == [(0, 10)]
    assert sample(0, 64) == []
    blocks = sample(100_000, 4096)
    assert blocks[0][0] == 0
    assert blocks[-1][1] == 100_000
    assert all(a < b <= c for (a, b), (c, _) in zip(blocks, blocks[1:], strict=False))
    assert columns(Changed(_Row(), lambda w: w)) == 4


class _Row:
    name, shape, dtype, nbytes = "row", (1, 4), "f32", 16

    def rows(self, start: int, stop: int) -> np.ndarray:
        return np.zeros((stop - start, 4), np.float32)


def test_the_bound_is_that_of_the_layers(source: Path, tmp_path: Path) -> None:
    """A head in 8 bits, half of a small model, does not ask of layers in 4 what only 8 can keep."""
    model = load_model(open_source(source))
    low = Plan(
        encoding="q4_0",
        rules=[RuleModel(pattern="token_embd|^output", encoding="q8_0", method="nearest")],
    )
    convert(source, tmp_path / "low.gguf", plan=low)
    high = Plan(
        encoding="q8_0",
        rules=[RuleModel(pattern="token_embd|^output", encoding="q4_0", method="nearest")],
    )
    convert(source, tmp_path / "high.gguf", plan=high)
    assert decisive_bits(tmp_path / "low.gguf", model) == pytest.approx(4.5, abs=0.1)
    assert 4.5 < decisive_bits(tmp_path / "high.gguf", model) < 8.5
    # Scales in float32, as a source in float32 gets them, make no code finer.
    convert(source, tmp_path / "mlx", preset="mlx:q4")
    assert decisive_bits(tmp_path / "mlx", model) == pytest.approx(4.5, abs=0.1)
