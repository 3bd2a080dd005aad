"""What Gemma and Phi ask of a runtime beside their graph.

Windows, a long rope, genai's own loop, the gate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import in_process, tiny_models

import kanna
from kanna import runtimes
from kanna.serving.engines.onnx_decoder import OnnxDecoder
from kanna.verification import verify

genai: Any = pytest.importorskip("onnxruntime_genai")
NAMES = ("gemma2", "gemma3-pattern", "olmo3", "phi4-mini")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Source and onnx:int4 folder of each."""
    found: dict[str, tuple[Path, Path]] = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        (folder / "source").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            for key, value in (("intermediate_size", 640), ("vocab_size", 544)):
                patch.setitem(tiny_models.SMALL, key, value)
            tiny_models.make(name, folder / "source")
        kanna.convert(folder / "source", folder / "out", preset="onnx:int4", threads=1)
        found[name] = folder / "source", folder / "out"
    return found


@pytest.mark.parametrize("name", NAMES)
def test_int4_passes_the_gate(name: str, made: dict[str, tuple[Path, Path]]) -> None:
    """Its long prompt goes beyond the window, and the context that Phi was first trained for."""
    source, out = made[name]
    result = verify(source, out, threads=1)
    assert result.status == "proved", [c for c in result.checks if not c.ok]


@pytest.mark.parametrize("name", NAMES)
def test_genai_generates_what_the_logits_say(name: str, made: dict[str, tuple[Path, Path]]) -> None:
    _, out = made[name]
    prompt = np.random.default_rng(1).integers(3, 500, 60).tolist()
    params = genai.GeneratorParams(model := genai.Model(str(out)))
    params.set_search_options(max_length=80, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array(prompt, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    ids = list(map(int, generator.get_sequence(0)))
    with runtimes.of(out).open(out, context=128, threads=1) as engine:
        best = engine.logits(ids, first=len(prompt) - 1).argmax(axis=1)
    same = np.mean(best[:-1] == ids[len(prompt) :])
    assert len(ids) > len(prompt) and same > 0.9  # inputs of 8 bits are rounded token by token


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_text_that_outgrows_the_short_rope_is_read_again(
    runtime: str, made: dict[str, tuple[Path, Path]]
) -> None:
    source, out = made["phi4-mini"]
    ids = np.random.default_rng(0).integers(3, 500, 700).tolist()
    with in_process.opened(out if runtime == "onnx" else source, context=800) as engine:
        assert engine.rope_edge == 256
        engine.rewind(0)
        whole = engine.forward(ids, 700)
        # In pieces of 512; a first position on either side of the edge.
        for first in (20, 400):
            assert (
                np.abs(engine.logits(ids, first=first) - whole[first:]).max() < 0.05 * whole.std()
            )
        list(engine.generate(prompt := ids[:250], max_tokens=12, ignore_eog=True))
        grown = list(engine._past)
        assert len(grown) == 261 and grown[:250] == prompt
        wanted = list(prompt)
        while len(wanted) < 261:
            wanted.append(int(engine.logits(wanted, first=len(wanted) - 1)[0].argmax()))
        assert wanted == grown
        list(
            engine.generate([*grown[:240], 7], max_tokens=1)
        )  # back to the short side: nothing is reused
        assert engine.last.reused_tokens == 0


def test_a_batch_stays_within_the_short_rope(made: dict[str, tuple[Path, Path]]) -> None:
    assert OnnxDecoder(made["phi4-mini"][1], context=1000, rows=2, threads=1).context == 256
    assert OnnxDecoder(made["gemma2"][1], context=1000, rows=2, threads=1).context == 1000
