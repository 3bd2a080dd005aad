"""What a model's own head for further tokens guesses, counted in llama.cpp."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import needs, tiny_models
from helpers.draft_heads import TorchHead, mostly_right

from kanna import convert
from kanna.benchmark import bench
from kanna.benchmark.drafting import AHEAD, PROMPT
from kanna.benchmark.guesses import OWN_HEAD
from kanna.errors import UsageError
from kanna.sources import packages

needs.llama_cpp()
pytest.importorskip("torch")
pytest.importorskip("transformers")

TOKENS = 40
SERVER = """
import json, os, sys, urllib.request, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.verbosity = 512, 1, 1, 0
params.fit_params = params.warmup = False
params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
params.speculative.draft.n_max, params.speculative.draft.p_min = int(sys.argv[4]), 0.0
server = xllamacpp.Server(params)
body = {"prompt": sys.argv[2], "n_predict": int(sys.argv[3]), "top_k": 1, "ignore_eos": True}
request = urllib.request.Request(server.listening_address + "/completion")
request.data = json.dumps(body).encode()
request.add_header("Content-Type", "application/json")
timings = json.load(urllib.request.urlopen(request))["timings"]
print(timings["draft_n"], timings["draft_n_accepted"], flush=True)
os._exit(0)
"""


def of_the_server(path: Path) -> tuple[int, int]:
    """Tokens that llama.cpp's server says its head drafted, and those that it accepted."""
    arguments = [str(path), PROMPT, str(2 * TOKENS), str(AHEAD)]
    done = subprocess.run(
        [sys.executable, "-c", SERVER, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    drafted, accepted = map(int, done.stdout.splitlines()[-1].split())
    return drafted, accepted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TorchHead]:
    """A tiny Qwen3.5 whose head is often right."""
    folder = tmp_path_factory.mktemp("model")
    model = tiny_models.make("qwen35", folder)
    mostly_right(folder, model)
    return folder, TorchHead(folder, model)


def test_guesses_are_those_of_the_weights(folder: tuple[Path, TorchHead], tmp_path: Path) -> None:
    from kanna.runtimes.llama_draft_head import LlamaDraftHead
    from kanna.runtimes.llamacpp import library

    source, head = folder
    path = tmp_path / "f32.gguf"
    convert(source, path, preset="F32")
    with LlamaDraftHead(library(), path, context=128, threads=1, exact=True) as model:
        ids, states = model.write(model.tokenize("The quick brown fox", add_bos=True), TOKENS)
        theirs = head.states(ids)
        assert abs(states - theirs[:-1].numpy()).max() < 1e-3
        right = read = 0
        # As after steps of which nothing, one and two guesses were accepted.
        for known in (8, 9, 11, 14, 15):
            guessed = model.guesses(ids[:known], states[: known - 1], read, AHEAD)
            assert guessed == head.guesses(ids[:known], theirs, AHEAD)
            right += sum(a == b for a, b in zip(guessed, ids[known:], strict=False))
            read = known
    assert 0 < right < 5 * AHEAD


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs xllamacpp")
def test_bench_counts_them_before_and_after_quantizing(
    folder: tuple[Path, TorchHead], tmp_path: Path
) -> None:
    source, _ = folder
    paths = [tmp_path / "f16.gguf", tmp_path / "q4_k_m.gguf"]
    for path in paths:
        convert(source, path, preset=path.stem.upper())
    rows = bench(paths, prompt_tokens=8, gen_tokens=2 * TOKENS, repeat=1, threads=1, draft=OWN_HEAD)
    before, after = (row.draft or {} for row in rows)
    print(f"MEASURE f16 {before['acceptance']:.3f} q4_k_m {after['acceptance']:.3f}")
    assert before["guesser"] == after["guesser"] == OWN_HEAD
    assert "libllama" in before["computed_by"]
    # The server guesses no further than it may write, where the last step here still counts.
    drafted, accepted = of_the_server(paths[0])
    assert abs(drafted - before["drafted"]) <= AHEAD, (drafted, before)
    assert abs(accepted - before["accepted"]) <= AHEAD, (accepted, before)
    # 0.47 of 111 guesses in both: a head that a conversion damages guesses next to nothing.
    assert 0.3 < before["acceptance"] < 0.7
    assert 0.7 < after["acceptance"] / before["acceptance"] < 1.3


def test_files_without_a_head_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no head of its own"):
        bench(packages.smollm2_gguf(), prompt_tokens=8, gen_tokens=2, repeat=1, draft=OWN_HEAD)
    (tmp_path / "model.onnx").touch()
    (tmp_path / "genai_config.json").write_text("{}")
    with pytest.raises(UsageError, match="--draft mtp with"):
        bench(tmp_path, prompt_tokens=8, gen_tokens=2, repeat=1, draft=OWN_HEAD)
