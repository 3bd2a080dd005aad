"""llama.cpp as a runtime: its build judged, broken files refused, logits and generation right."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kanna import runtimes
from kanna._util import extras, processes
from kanna.errors import (
    FormatError,
    KannaError,
    MissingError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from kanna.evaluation.divergence import compare
from kanna.runtimes import llamacpp
from kanna.runtimes._llama_log import Log
from kanna.runtimes.base import Sampling
from kanna.runtimes.isolation import IsolatedLlamaEngine
from kanna.runtimes.llama_engine import LlamaEngine
from kanna.runtimes.llama_model import model_parameters
from kanna.runtimes.llamacpp import RUNTIME, judge_build, parse_system_info
from kanna.sources import packages

NATIVE = (
    "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | AVX512 = 1 | "
    "OPENMP = 1 | REPACK = 1 | "
)
GPU = "CUDA : ARCHS = 890 | USE_GRAPHS = 1 | CPU : AVX = 1 | AVX2 = 1 | "
FLAGS = frozenset({"avx", "avx2", "f16c", "fma", "bmi2", "avx512f"})


def test_system_info_is_read_by_backend() -> None:
    assert parse_system_info(NATIVE)["CPU"]["AVX512"] == "1"
    assert parse_system_info(GPU) == {
        "CUDA": {"ARCHS": "890", "USE_GRAPHS": "1"},
        "CPU": {"AVX": "1", "AVX2": "1"},
    }
    assert parse_system_info("") == {}


def test_a_build_without_what_the_cpu_offers_is_generic() -> None:
    assert judge_build(parse_system_info(NATIVE), FLAGS)["native"]
    generic = judge_build(
        {"CPU": {"AVX": "1", "AVX2": "1", "FMA": "1", "F16C": "1", "AVX512": "0"}}, FLAGS
    )
    assert not generic["native"]
    assert generic["missing"] == ["BMI2", "AVX512"]
    # What this CPU does not have cannot be missing.
    assert judge_build(parse_system_info(NATIVE), frozenset({"avx", "avx2"}))["native"]


def test_the_log_keeps_the_first_telling_complaint() -> None:
    log = Log()
    log._receive(2, b"llama_kv_cache:        CPU KV buffer size =    11.25 MiB\n", None)
    log._receive(3, b"load: something odd\n", None)
    log._receive(4, b"llama_model_load: error loading model: missing ", None)
    log._receive(5, b"tensor 'output_norm.weight'\n", None)
    log._receive(4, b"llama_model_load_from_file_impl: failed to load model\n", None)
    log._receive(4, b"\xff\xfe", None)
    assert log.why().startswith("error loading model: missing")
    assert log.buffers == [("CPU", "kv", round(11.25 * 2**20))]
    log.clear()
    assert log.why() == "llama.cpp gave no reason"


def test_runtimes_are_found_by_file_name() -> None:
    assert "llamacpp" in runtimes.names()
    assert runtimes.get("llamacpp") is RUNTIME
    with pytest.raises(UnsupportedError, match="llamacpp"):
        runtimes.get("nonsense")


@pytest.fixture
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("llama_cpp", "xllamacpp", "llama_cpp_py_sync"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.usefixtures("without_llama_cpp")
def test_without_llama_cpp_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    state = RUNTIME.available()
    assert not state.ok
    assert extras.command("llamacpp") in state.how_to_install
    with pytest.raises(MissingError) as caught:
        RUNTIME.open(tmp_path / "any.gguf")
    assert caught.value.exit_code == 3


pytest_llama = pytest.mark.skipif(not RUNTIME.available().ok, reason="needs llama.cpp")


@pytest.fixture(scope="module")
def model() -> Path:
    return packages.smollm2_gguf()


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[IsolatedLlamaEngine]:
    with RUNTIME.open(model, context=600, threads=1) as opened:
        assert isinstance(opened, IsolatedLlamaEngine)
        yield opened


@pytest_llama
@pytest.mark.parametrize("amx", [False, True])
def test_extra_buffers_are_off_exactly_when_the_build_has_amx(
    amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = llamacpp.library()
    info = NATIVE.encode() + (b"AMX_INT8 = 1 | " if amx else b"")
    monkeypatch.setattr(lib, "llama_print_system_info", lambda: info)
    assert model_parameters(lib).use_extra_bufts is not amx


@pytest_llama
def test_what_is_here_is_described() -> None:
    state = RUNTIME.available().to_dict()
    assert state["ok"]
    assert "CPU" in state["backends"]
    assert isinstance(state["build"]["native"], bool)
    assert state["build"]["features"]


@pytest_llama
@pytest.mark.parametrize("damage", ["empty", "magic", "header", "cut", "text"])
def test_broken_files_are_refused_and_nothing_crashes(
    damage: str, model: Path, tmp_path: Path
) -> None:
    with model.open("rb") as file:
        head = file.read(3 << 20)
    content = {
        "empty": b"",
        "magic": b"GGML" + head[4:],
        "header": head[:200],
        "cut": head,
        "text": b"not a model at all",
    }[damage]
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(KannaError, match=r"broken\.gguf|GGUF"):
        RUNTIME.open(path)


@pytest_llama
def test_a_file_that_parses_but_is_no_model_says_why(tmp_path: Path) -> None:
    from kanna.formats import gguf
    from kanna.model import string

    path = tmp_path / "odd.gguf"
    gguf.write(path, metadata={"general.architecture": string("nonsense")}, tensors=[])
    with pytest.raises(FormatError, match="nonsense"):
        RUNTIME.open(path)
    with pytest.raises(NotFoundError, match="does not exist"):
        RUNTIME.open(tmp_path / "absent.gguf")


@pytest_llama
def test_the_library_says_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RUNTIME.open(model, context=64) as opened:
        list(opened.generate(opened.tokenize("Hello"), max_tokens=2))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest_llama
def test_text_survives_tokens(engine: IsolatedLlamaEngine) -> None:
    for text in ("Hello, world!", "鉋で削る 🙂", "  two spaces\n\ttab", ""):
        assert engine.detokenize(engine.tokenize(text)) == text
    [mark] = engine.tokenize("<|im_end|>", special=True)
    assert engine.eog(mark)
    assert mark in engine.eog_ids
    assert len(engine.tokenize("<|im_end|>")) > 1
    assert engine.detokenize([mark]) == ""
    assert engine.detokenize([mark], special=True) == "<|im_end|>"


@pytest_llama
def test_logits_of_every_position(engine: IsolatedLlamaEngine) -> None:
    ids = engine.tokenize("The plane takes a shaving so thin that light passes through it.")
    every = engine.logits(ids)
    assert every.shape == (len(ids), engine.vocab_size)
    assert every.dtype == np.float32
    assert np.isfinite(every).all()
    tail = engine.logits(ids, first=len(ids) - 3)
    assert np.abs(every[-3:] - tail).max() < 1e-3
    # The cache is empty each time: what came before does not matter.
    engine.logits(engine.tokenize("Something else entirely, first."))
    assert np.array_equal(engine.logits(ids), every)


@pytest_llama
def test_scoring_a_long_text_in_several_batches(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_disposable", True)  # its engine is one of this process
    with RUNTIME.open(model, context=256, threads=1) as one:
        assert isinstance(one, LlamaEngine)
        ids = one.tokenize(" ".join(f"The number after {i} is {i + 1}." for i in range(40)))[:200]
        whole = one.logits(ids, first=100)
        one._n_batch = 64  # four batches, the first without any row asked for
        parts = one.logits(ids, first=100)
    assert parts.shape == whole.shape
    # Other batch sizes round and sum in other orders.
    _, [scores] = compare(whole, [parts], np.zeros(len(whole), np.int64))
    assert scores.kl.mean() < 0.01


@pytest_llama
def test_wrong_use_is_refused(engine: IsolatedLlamaEngine, model: Path) -> None:
    for ids in ([], [engine.vocab_size], [-1]):
        with pytest.raises(UsageError):
            engine.logits(ids)
        with pytest.raises(UsageError):
            list(engine.generate(ids))
    with pytest.raises(UsageError, match="context"):
        engine.logits([5] * 2000)
    with pytest.raises(UsageError, match="context"):
        list(engine.generate([5] * 2000))
    with pytest.raises(UsageError):
        RUNTIME.open(model, context=-1)
    closed = RUNTIME.open(model, context=64)
    closed.close()
    closed.close()
    with pytest.raises(UsageError, match="closed"):
        closed.logits([5])


@pytest_llama
def test_greedy_generation_follows_the_logits(engine: IsolatedLlamaEngine) -> None:
    ids = engine.tokenize("Once upon a time")
    text = "".join(engine.generate(ids, max_tokens=8))
    assert engine.last.tokens == 8
    assert engine.last.reason == "length"
    wanted = list(ids)
    for _ in range(8):
        wanted.append(int(engine.logits(wanted, first=len(wanted) - 1)[0].argmax()))
    assert text == engine.detokenize(wanted[len(ids) :])


@pytest_llama
def test_sampling_repeats_with_its_seed(engine: IsolatedLlamaEngine) -> None:
    ids = engine.tokenize("My favourite animal is the")
    texts = [
        "".join(engine.generate(ids, max_tokens=12, sampling=Sampling(temperature=1.5, seed=s)))
        for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest_llama
def test_a_longer_prompt_reuses_what_was_read(engine: IsolatedLlamaEngine, model: Path) -> None:
    first = engine.tokenize("One two three four five six seven eight nine ten.")
    list(engine.generate(first, max_tokens=1))
    longer = first + engine.tokenize(" Eleven twelve")
    text = "".join(engine.generate(longer, max_tokens=6))
    assert engine.last.reused_tokens >= len(first)
    with RUNTIME.open(model, context=600, threads=1) as fresh:
        assert "".join(fresh.generate(longer, max_tokens=6)) == text
        assert fresh.last.reused_tokens == 0


@pytest_llama
def test_a_prompt_goes_on_from_a_text_that_was_scored(
    engine: IsolatedLlamaEngine, model: Path
) -> None:
    text = engine.tokenize("One two three four five six seven eight nine ten.")
    asked = text[:-3] + engine.tokenize(" Eleven twelve")
    for part, reused in ((8, len(text) - 3), (65, 0)):
        with RUNTIME.open(model, context=600, threads=1) as scoring:
            list(scoring.logits_in_parts(text, part=part, spans=[(4, 8), (8, len(text) - 1)]))
            answer = "".join(scoring.generate(asked, max_tokens=6))
            assert scoring.last.reused_tokens == reused, "room for many logits is given back"
        assert answer == "".join(engine.generate(asked, max_tokens=6))


@pytest_llama
def test_generation_stops_where_it_is_told(engine: IsolatedLlamaEngine) -> None:
    ids = engine.tokenize("Count: 1, 2, 3, 4, 5,")
    free = "".join(engine.generate(ids, max_tokens=12))
    stop = free[6:9]
    cut = "".join(engine.generate(ids, max_tokens=12, stop=[stop]))
    assert engine.last.reason == "stop"
    assert cut == free[: free.index(stop)]
    list(engine.generate([5] * 760, max_tokens=100, ignore_eog=True))
    assert engine.last.reason == "context"  # 600 tokens, rounded up to 768
    assert engine.last.tokens <= 10


@pytest_llama
def test_memory_is_told_by_purpose(engine: IsolatedLlamaEngine, model: Path) -> None:
    found = engine.memory()
    assert set(found) == {"weights", "kv", "compute", "output"}
    assert 0.8 * model.stat().st_size < found["weights"] < 1.3 * model.stat().st_size
    # 30 layers of 3 heads of 64 keys and values in float16.
    assert found["kv"] >= 600 * 30 * 3 * 64 * 2 * 2


def test_stop_text_holds_back_only_what_may_become_a_stop() -> None:
    from kanna.runtimes.sampling import StopText

    held = StopText(["</end>", "STOP"])
    assert held.push("abc</") == "abc"
    assert held.push("x") == "</x"
    assert held.push("ST") == ""
    assert held.push("OPafter") == ""
    assert held.stopped
    free = StopText([])
    assert free.push("anything") == "anything"
    tail = StopText(["xyz"])
    assert tail.push("axy") == "a"
    assert tail.rest() == "xy"


@pytest_llama
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 0),
        ("llama.block_count", 1 << 31),
        ("llama.attention.layer_norm_rms_epsilon", float("nan")),
        ("llama.attention.layer_norm_rms_epsilon", -1.0),
        ("tokenizer.ggml.model", "llama"),  # byte-level tokens have no <0x0A>
    ],
)
def test_what_would_abort_the_process_is_refused(
    key: str, value: object, model: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from kanna import encodings
    from kanna.formats import gguf
    from kanna.plan import TensorPlan

    file = gguf.read(model)
    metadata = {**file.metadata, key: replace(file.metadata[key], value=value)}
    plans = [
        TensorPlan(name=name, tensor=tensor, encoding=encodings.get(tensor.dtype))
        for name, tensor in file.tensors.items()
    ]
    path = tmp_path / "abort.gguf"
    gguf.write(path, metadata=metadata, tensors=plans)
    with pytest.raises(FormatError, match=f"would end|{re.escape(key)} is "):
        RUNTIME.open(path)
