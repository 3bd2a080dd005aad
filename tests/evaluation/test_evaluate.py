"""Divergences to many digits, intervals, windows; evaluation of real files in llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kanna.errors import GateError, UsageError
from kanna.evaluation import Extent, evaluate, evaluate_many
from kanna.evaluation.divergence import compare, nll
from kanna.evaluation.stats import MIN_WINDOWS, exp_ci, half_width, mean_ci
from kanna.evaluation.windows import cut
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import packages

needs_llama = pytest.mark.skipif(not RUNTIME.available().ok, reason="needs llama.cpp")


def exact(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL per row in extended precision."""
    p, q = (x.astype(np.longdouble) for x in (reference, other))
    lp, lq = (x - x.max(1, keepdims=True) for x in (p, q))
    lp, lq = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (lp, lq))
    return (np.exp(lp) * (lp - lq)).sum(1)


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_kl_is_right_to_many_digits(noise: float, threads: int) -> None:
    rng = np.random.default_rng(7)
    reference = (rng.standard_normal((37, 5003)) * 4 + 20).astype(np.float32)
    other = (reference + rng.standard_normal(reference.shape) * noise - 300).astype(np.float32)
    targets = rng.integers(0, 5003, 37)
    base, [scores] = compare(reference, [other], targets, threads=threads)
    wanted = exact(reference, other)
    assert np.abs(scores.kl / wanted - 1).max() < 1e-5
    assert np.array_equal(scores.top1, reference.argmax(1) == other.argmax(1))
    assert np.allclose(base, nll(reference, targets))
    logq = other.astype(np.float64) - np.logaddexp.reduce(other.astype(np.float64), axis=1)[:, None]
    assert np.allclose(scores.nll, -logq[np.arange(37), targets], rtol=1e-12)


def test_equal_logits_have_no_divergence() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32)
    _, [same, shifted] = compare(logits, [logits, logits + np.float32(2)], np.zeros(5, np.int64))
    assert (same.kl == 0).all()
    assert (shifted.kl < 1e-12).all()
    assert same.top1.all()
    with pytest.raises(ValueError, match="against a reference"):
        compare(logits, [logits[:, :-1]], np.zeros(5, np.int64))


def test_nan_shows() -> None:
    logits = np.zeros((2, 8), np.float32)
    bad = logits.copy()
    bad[1, 3] = np.nan
    _, [scores] = compare(logits, [bad], np.zeros(2, np.int64))
    assert np.isnan(scores.nll[1])
    assert np.isfinite(scores.nll[0])


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        mean, ci = mean_ci(rng.standard_normal(6) + 3)
        assert ci is not None
        assert ci[0] <= mean <= ci[1]
        hits += ci[0] <= 3 <= ci[1]
    assert 0.93 < hits / 2000 < 0.97


def test_intervals_stay_within_what_is_possible() -> None:
    assert mean_ci(np.array([0.0, 0.0, 0.0, 0.001]), low=0)[1] == (
        0,
        pytest.approx(0.001046, rel=0.01),
    )
    value, ci = exp_ci(np.array([2.0] * MIN_WINDOWS))
    assert value == pytest.approx(np.exp(2))
    assert ci == (value, value)


@pytest.mark.parametrize("count", range(1, MIN_WINDOWS))
def test_few_windows_give_no_interval(count: int) -> None:
    """Two windows once gave a perplexity of 0.03 to 15337."""
    means = np.linspace(2.5, 3.5, count)
    assert half_width(means) is None
    assert exp_ci(means) == (pytest.approx(np.exp(means.mean())), None)


@pytest.fixture(scope="module")
def smollm() -> Path:
    return packages.smollm2_gguf()


@pytest.fixture(scope="module")
def artefacts(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from kanna import convert

    folder = tmp_path_factory.mktemp("artefacts")
    made = {name: folder / f"{name}.gguf" for name in ("F16", "Q8_0", "Q4_0")}
    for name, path in made.items():
        convert(smollm, path, encoding=name.lower())
    return made


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(packages.wikitext().read_text(encoding="utf-8")[:12_000], encoding="utf-8")
    return path


@needs_llama
def test_windows_are_cut_as_llama_perplexity_does(smollm: Path, text: Path) -> None:
    content = text.read_text(encoding="utf-8")
    with RUNTIME.open(smollm, vocab_only=True) as engine:
        ids = engine.tokenize(content, add_bos=True)
        work = cut(engine, content, context=512, windows=None, default=False)
        assert len(work.ids) == len(ids) // 512
        assert work.ids[1] == ids[512:1024]  # this model adds no BOS
        assert work.first == 256
        assert work.positions == 255 * len(work.ids)
        engine.adds_bos = True
        marked = cut(engine, content, context=512, windows=2, default=False)
        assert [w[0] for w in marked.ids] == [engine.bos] * 2
        assert marked.ids[1][1:] == ids[513:1024]
        short = cut(engine, content[:700], context=512, windows=3, default=False)
        assert len(short.ids) == 1
        assert any("too few for intervals" in note for note in short.notes)
        with pytest.raises(UsageError, match="tokens"):
            cut(engine, "too short", context=512, windows=None, default=False)


@needs_llama
def test_quality_falls_with_the_bits(smollm: Path, artefacts: dict[str, Path], text: Path) -> None:
    made = list(artefacts.values())
    f16, q8, q4 = evaluate_many(
        made, reference=smollm, text=text, extent=Extent(windows=4, context=128), threads=1
    )
    assert f16.kl_mean < 2e-5 < q8.kl_mean < 0.02 < q4.kl_mean < 1
    assert f16.top1 > q8.top1 > q4.top1
    assert f16.perplexity == pytest.approx(f16.reference_perplexity, rel=1e-3)
    assert q8.kl_median < q8.kl_p99 < q8.kl_p999 <= q8.kl_max
    assert q8.kl_mean_ci is not None
    assert q8.kl_mean_ci[0] < q8.kl_mean < q8.kl_mean_ci[1]
    assert (q8.windows, q8.context, q8.positions, q8.tokens) == (4, 128, 252, 512)
    data = q4.to_dict()
    assert data["text"] == "text.txt"
    again = evaluate(
        artefacts["Q8_0"], reference=smollm, text=text, windows=4, context=128, threads=1
    )
    assert again.kl_mean == pytest.approx(q8.kl_mean, rel=1e-9)


@needs_llama
def test_another_model_is_not_compared(
    artefacts: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from helpers import tiny_models

    from kanna import convert

    tiny_models.make("smollm", tmp_path)
    other = tmp_path / "other.gguf"
    convert(tmp_path, other, encoding="f16")
    with pytest.raises(GateError, match="vocabulary"):
        evaluate(other, reference=artefacts["F16"], text=text, windows=1)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        evaluate(tmp_path / "a.gguf", reference="x", text=tmp_path / "absent.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="UTF-8"):
        evaluate(tmp_path / "a.gguf", reference="x", text=tmp_path / "binary.txt")
    (tmp_path / "ok.txt").write_text("fine")
    with pytest.raises(UsageError, match="does not exist"):
        evaluate(tmp_path / "a.gguf", reference="x", text=tmp_path / "ok.txt")
