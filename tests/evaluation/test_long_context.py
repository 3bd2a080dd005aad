"""Types of cached keys and values, judged by depth and by facts hidden in long texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import needs

import kanna
from kanna.cli.main import cli
from kanna.errors import UsageError
from kanna.evaluation.divergence import compare
from kanna.evaluation.long_context import depths, needles
from kanna.evaluation.long_context.result import LongContextResult
from kanna.runtimes import llama_batch
from kanna.runtimes.cache_types import cache_types
from kanna.runtimes.llamacpp import RUNTIME

CONTEXT = 1100


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama in float16 that was made for 8192 tokens."""
    pytest.importorskip("transformers")
    needs.llama_cpp()
    from helpers import tiny_models
    from helpers.tiny_recipe import Recipe

    folder = tmp_path_factory.mktemp("long")
    recipe = Recipe("llama", "LlamaForCausalLM", "LlamaConfig", {"max_position_embeddings": 8192})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.RECIPES, "llama-long", recipe)
        tiny_models.make("llama-long", folder / "source")
    kanna.convert(folder / "source", folder / "long.gguf", encoding="f16")
    (folder / "text.txt").write_text(tiny_models.TEXT * 100, encoding="utf-8")
    return folder / "long.gguf"


@pytest.fixture(scope="module")
def judged(long: Path) -> LongContextResult:
    return kanna.evaluate(
        long,
        kv_types="f16, q8_0, q8_0:q4_0, q4_0",
        context=CONTEXT,
        text=long.with_name("text.txt"),
        threads=1,
    )


def test_a_cache_costs_what_its_types_lose(judged: LongContextResult) -> None:
    exact, q8, mixed, q4 = judged.caches
    assert judged.context == CONTEXT and [s.depth for s in q8.depths] == [550, CONTEXT]
    assert all(s.kl == 0 and s.top1 == 1 for s in exact.depths)
    for a, b in ((q8, mixed), (mixed, q4)):
        assert all(0 < x.kl < y.kl for x, y in zip(a.depths, b.depths, strict=True))
        assert a.kv_bytes > b.kv_bytes
    assert (mixed.keys, mixed.values) == ("q8_0", "q4_0")
    assert judged.exact.kv_bytes == exact.kv_bytes > q8.kv_bytes
    assert all(n.same for n in exact.needles) and len(exact.needles) == 3
    assert any("says less" in note for note in judged.notes), "a random model knows no fact"


def test_the_divergence_is_that_of_the_logits(long: Path, judged: LongContextResult) -> None:
    text = long.with_name("text.txt").read_text(encoding="utf-8")
    rows: list[np.ndarray] = []
    for cache in ("f16", "q4_0"):
        with RUNTIME.open(long, context=CONTEXT, threads=1, cache=cache) as engine:
            ids = engine.tokenize(text.removesuffix("\n"), add_bos=True)[:CONTEXT]
            ids, _ = needles.hide(engine, ids, CONTEXT)
            rows.append(engine.logits(ids, first=CONTEXT - 1 - depths.STRETCH)[:-1])
    targets = np.array(ids[-depths.STRETCH :])
    _, [scores] = compare(rows[0], [rows[1]], targets)
    # Read in other batches, values are rounded elsewhere.
    assert judged.caches[-1].depths[-1].kl == pytest.approx(scores.kl.mean(), rel=0.05)


def test_the_command_says_the_same(long: Path, judged: LongContextResult) -> None:
    words = ["evaluate", str(long), "--kv-types", "q8_0", "--context", "300", "--threads", "1"]
    words += ["--text", str(long.with_name("text.txt"))]
    run = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["context"] == 300 and found["caches"][0]["depths"][0]["kl"] > 0
    assert "q8_0 0." in judged.headline() and len(judged.tables()[0].rows) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no --reference to compare with"),
        (
            ["--kv-types", "q8_0", "--reference", "builtin:stories15m"],
            "--kv-types with --reference",
        ),
        (["--kv-types", "q8_0", "--tasks", "json"], "--kv-types with --tasks"),
        (["--kv-types", "q8_0:q3_k"], "a cache of q8_0:q3_k"),
        (["--kv-types", "q8_0", "--context", "100"], "100 tokens to judge a cache on"),
    ],
)
def test_what_cannot_be_judged_is_refused(long: Path, words: list[str], said: str) -> None:
    text = str(long.with_name("text.txt"))
    run = CliRunner().invoke(cli, ["evaluate", str(long), "--text", text, *words])
    assert run.exit_code == 2 and said in run.stderr, run.output


def test_types_that_heads_cannot_have_are_named(tmp_path: Path) -> None:
    """Heads of 48 values are no multiple of blocks of 32."""
    pytest.importorskip("transformers")
    needs.llama_cpp()
    from helpers import tiny_models

    tiny_models.make("mistral-nemo", tmp_path / "tiny")
    kanna.convert(tmp_path / "tiny", tmp_path / "m.gguf", preset="Q8_0")
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 9, encoding="utf-8")
    with pytest.raises(UsageError, match=r"no cache of q8_0 for m\.gguf"):
        kanna.evaluate(tmp_path / "m.gguf", kv_types="q8_0", text=text, context=256, threads=1)


def test_depths_halve_and_stretches_lie_apart() -> None:
    assert depths.depths(8192) == [512, 1024, 2048, 4096, 8192]
    assert depths.depths(6000) == [750, 1500, 3000, 6000]
    assert depths.depths(300) == [300]
    spans = depths.spans_at(depths.depths(8192))
    assert spans[-1] == (8192 - 1 - depths.STRETCH, 8191)
    for length in (8, 300, 1000, 8192):
        spans = depths.spans_at_the_end(length)
        assert spans[0][0] >= length // 2 - 1 and spans[-1][1] == length - 1
        assert all(0 < b - a <= depths.STRETCH for a, b in spans)
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert len(depths.spans_at_the_end(8192)) == 16


def test_a_text_is_read_to_the_last_span_and_no_further() -> None:
    assert list(llama_batch.parts(5, 2, 9, None)) == [(0, 2, True), (2, 4, True), (4, 5, True)]
    assert list(llama_batch.parts(20, 2, 4, [(6, 9), (9, 10)])) == [
        (0, 4, False),
        (4, 6, False),
        (6, 8, True),
        (8, 9, True),
        (9, 10, True),
    ]


def test_types_are_one_for_both_or_a_pair() -> None:
    assert cache_types("q8_0") == ("q8_0", "q8_0")
    assert cache_types("F16:q5_1") == ("f16", "q5_1")
    for wrong in ("", "q8_0:", ":q8_0", "q8_0:q8_0:q8_0", "q4_k"):
        with pytest.raises(UsageError, match="a cache of"):
            cache_types(wrong)


class Words:
    """Tokens are characters."""

    def tokenize(self, text: str) -> list[int]:
        return [ord(c) for c in text]


def test_facts_are_told_at_their_depths_and_asked_at_the_end() -> None:
    filler = [ord("x")] * 2000
    with_facts, asked = needles.hide(Words(), filler, 2000)  # pyright: ignore[reportArgumentType]
    assert len(with_facts) == 2000
    texts = ["".join(map(chr, prompt.ids)) for prompt in asked]
    assert len(asked) == 3 and all(len(text) < 2000 for text in texts)
    for prompt, text in zip(asked, texts, strict=True):
        question_at = text.rindex("\n\n")
        assert prompt.ids[:question_at] == with_facts[:question_at], "only the end differs"
        fact, _, question = text[prompt.depth :].partition(".")[0], *text.rpartition("\n\n")[1:]
        assert fact.startswith(f" {question}") and fact.endswith(f" {prompt.number}")
    assert [round(p.depth / 2000, 1) for p in asked] == [0.1, 0.4, 0.9]
    assert needles.is_found(asked[0], f" {asked[0].number}, I think")
    assert not needles.is_found(asked[0], "I do not know")
    for few, context in ((filler, 200), (filler[:300], 2000)):
        assert needles.hide(Words(), few, context) == (few, [])  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_real_weights_after_a_thousand_tokens(smollm2: Path) -> None:
    needs.llama_cpp()
    found = kanna.evaluate(smollm2, kv_types="q4_0", context=1024)
    assert found.context == 1024 and len(found.exact.depths) == 2
    assert all(0.001 < score.kl < 1 for score in found.caches[0].depths)
    assert sum(needle.found for needle in found.exact.needles) >= 1
