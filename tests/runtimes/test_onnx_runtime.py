"""ONNX folders in onnxruntime.

Logits, text, files from hostile hands, the gate, and benches beside a GGUF's.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import in_process, tiny_models

import kanna
from kanna import runtimes
from kanna._util import extras, processes
from kanna.benchmark.energy import EnergyMeter
from kanna.errors import FormatError, MissingError, UsageError
from kanna.evaluation import Extent, evaluate_many
from kanna.formats.kept_rows import KEPT
from kanna.formats.onnx import files
from kanna.runtimes import onnx as module
from kanna.runtimes.base import Sampling
from kanna.runtimes.onnx import RUNTIME
from kanna.runtimes.onnx_engine import OnnxEngine
from kanna.runtimes.sampling import sampler
from kanna.verification import verify

pytest.importorskip("onnxruntime_genai")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        # The builder takes a layer for the head when both have as many rows.
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        tiny_models.make("llama3", folder)
    return folder


@pytest.fixture(scope="module")
def artefact(source: Path) -> Path:
    out = source.parent / "artefact"
    kanna.convert(source, out, preset="onnx:fp32", threads=1)
    return out


@pytest.fixture(scope="module")
def engine(artefact: Path) -> Iterator[OnnxEngine]:
    """In this process, where its parts can be looked at; see test_isolation for the other one."""
    with in_process.opened(artefact, context=700) as opened:
        assert isinstance(opened, OnnxEngine)
        yield opened


@pytest.fixture(autouse=True)
def _own_references(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("kanna.sources.packages.cache_dir", lambda: tmp_path_factory.getbasetemp())


@pytest.fixture
def copy(artefact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artefact, tmp_path / "copy"))


def test_the_runtime_of_each_kind_of_artefact(source: Path, artefact: Path, tmp_path: Path) -> None:
    assert runtimes.of(artefact).name == "onnx"
    assert runtimes.of(source).name == "torch"
    assert runtimes.of(tmp_path / "any.gguf").name == "llamacpp"
    with pytest.raises(FormatError):
        runtimes.of(tmp_path)


def test_logits_are_those_of_transformers_however_they_are_cut(
    source: Path, engine: OnnxEngine
) -> None:
    ids = np.random.default_rng(0).integers(3, 500, 640).tolist()
    with runtimes.get("torch").open(source, context=700, threads=1) as torch:
        wanted = torch.logits(ids, first=300)
        assert torch.tokenize("Hello, <|im_end|>", special=True) == engine.tokenize(
            "Hello, <|im_end|>", special=True
        )
    found = engine.logits(ids, first=300)
    assert found.shape == wanted.shape == (340, engine.vocab_size)
    assert np.abs(found - wanted).max() < 1e-3 * wanted.std()
    assert np.abs(engine.logits(ids[:400], first=390) - found[90:100]).max() < 1e-4


def test_logits_of_a_prompt_are_those_of_its_last_token_alone(engine: OnnxEngine) -> None:
    ids = np.random.default_rng(2).integers(3, 500, 100).tolist()
    whole = engine.logits(ids)
    engine.rewind(0)
    row = engine.forward(ids, 1)
    [session] = engine.sessions().values()
    assert KEPT in {given.name for given in session.get_inputs()}
    assert np.abs(row - whole[-1:]).max() < 1e-4
    assert engine.memory()["output"] == 4 * engine.vocab_size


def test_greedy_generation_follows_the_logits(engine: OnnxEngine) -> None:
    ids = engine.tokenize("The quick brown fox jumps over")
    text = "".join(engine.generate(ids, max_tokens=8, ignore_eog=True))
    assert (engine.last.tokens, engine.last.reason) == (8, "length")
    wanted = list(ids)
    for _ in range(8):
        wanted.append(int(engine.logits(wanted, first=len(wanted) - 1)[0].argmax()))
    # Characters may be cut in half at either end.
    assert text in engine.detokenize(wanted)
    assert engine.detokenize(wanted).startswith("The quick brown fox jumps over")


def test_text_streams_whole_characters(engine: OnnxEngine) -> None:
    text = "hello 木 🙂🚀 мир, it's"
    ids = engine.tokenize(text)
    pieces = list(engine.text.stream([], iter(ids)))
    assert "".join(pieces) == text
    assert not any("\ufffd" in p for p in pieces)
    cut = ids[: len(engine.tokenize("hello 木")) + 2]  # ends within the first emoji
    assert "".join(engine.text.stream(ids[:2], iter(cut[2:]))).count("\ufffd") >= 1
    for _ in range(3):  # any ids at all
        random = np.random.default_rng(_).integers(3, 500, 60).tolist()
        assert "".join(engine.text.stream(random[:20], iter(random[20:])))


def test_a_longer_prompt_reuses_what_was_read(engine: OnnxEngine) -> None:
    first = engine.tokenize("Once upon a time there was a small model.")
    longer = first + engine.tokenize(" It could read")
    list(engine.generate(first, max_tokens=1))
    text = "".join(engine.generate(longer, max_tokens=6, ignore_eog=True))
    assert engine.last.reused_tokens >= len(first)
    engine.logits(first)  # what was generated is forgotten
    assert "".join(engine.generate([7, *longer], max_tokens=6, ignore_eog=True)) is not None
    assert engine.last.reused_tokens == 0
    assert "".join(engine.generate(longer, max_tokens=6, ignore_eog=True)) == text


def test_generation_stops_where_it_is_told(engine: OnnxEngine) -> None:
    ids = engine.tokenize("Count: 1, 2, 3")
    free = "".join(engine.generate(ids, max_tokens=24, ignore_eog=True))
    stop = free[6:9]
    cut = "".join(engine.generate(ids, max_tokens=24, stop=[stop], ignore_eog=True))
    assert (engine.last.reason, cut) == ("stop", free[: free.index(stop)])
    list(engine.generate([5] * 698, max_tokens=100, ignore_eog=True))
    assert engine.last.reason == "context"
    assert engine.last.tokens == 3


def test_wrong_use_is_refused(engine: OnnxEngine, artefact: Path) -> None:
    for ids in ([], [engine.vocab_size], [-1], [5] * 800):
        with pytest.raises(UsageError):
            engine.logits(ids)
        with pytest.raises(UsageError):
            list(engine.generate(ids))
    with pytest.raises(UsageError):
        RUNTIME.open(artefact, context=-1)
    closed = RUNTIME.open(artefact, context=64, threads=1)
    closed.close()
    closed.close()
    with pytest.raises(UsageError, match="closed"):
        closed.logits([5])


def test_memory_is_told_by_purpose(engine: OnnxEngine, artefact: Path) -> None:
    found = engine.memory()
    assert found["weights"] == sum(
        (artefact / n).stat().st_size for n in ("model.onnx", "model.onnx.data")
    )
    assert found["kv"] == 700 * 3 * 2 * 2 * 64 * 4  # layers, keys and values, heads, width, float32


def test_threads_are_honoured(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib, seen = module.library(), []
    real = lib.InferenceSession

    def session(path: str, options: Any, **rest: Any) -> Any:
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return real(path, options, **rest)

    monkeypatch.setattr(lib, "InferenceSession", session)
    monkeypatch.setattr(processes, "_disposable", True)
    RUNTIME.open(artefact, context=64, threads=3).close()
    assert seen == [(3, 1)]


def test_sampling_draws_by_the_odds_of_what_is_left() -> None:
    odds = np.array([0.02, 0.5, 0.3, 0.15, 0.03])
    logits = np.log(odds).astype(np.float32)
    assert sampler(Sampling(temperature=0, seed=0, top_k=40, top_p=0.95, min_p=0))(logits) == 1
    pick = sampler(Sampling(temperature=1.0, seed=0, top_k=4, top_p=0.9, min_p=0.05))
    counts = np.bincount([pick(logits) for _ in range(4000)], minlength=5) / 4000
    assert np.abs(counts - np.array([0, 0.5, 0.3, 0.15, 0]) / 0.95).max() < 0.03
    narrow = sampler(Sampling(temperature=1.0, seed=0, top_k=40, top_p=1.0, min_p=0.5))
    assert {narrow(logits) for _ in range(200)} == {1, 2}


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(folder: Path) -> None:
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(data[:-5000])


def _elsewhere(folder: Path) -> None:
    outside = folder.parent / "outside.data"
    (folder / "model.onnx.data").rename(outside)
    (folder / "model.onnx.data").symlink_to(outside)


def _rename(location: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        import onnx

        graph = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        onnx.save(graph, str(folder / "model.onnx"))

    return change


def _config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / "genai_config.json").read_text())
        change(data["model"])
        (folder / "genai_config.json").write_text(json.dumps(data))

    return apply


def _graph(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        import onnx

        graph = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        change(graph)
        onnx.save(graph, str(folder / "model.onnx"))

    return apply


def _unknown(graph: Any) -> None:
    node = next(n for n in graph.graph.node if n.op_type == "GroupQueryAttention")
    node.op_type = "AttentionOfTomorrow"


def _aged(graph: Any) -> None:
    next(o for o in graph.opset_import if o.domain == "").version = 11


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(
            _graph(_unknown),
            "cannot load .*AttentionOfTomorrow",
            id="operator that the CPU does not run",
        ),
        pytest.param(_graph(_aged), "is in opset 11", id="opset too old"),
        pytest.param(_without("model.onnx.data"), "missing", id="data missing"),
        pytest.param(_without("model.onnx"), "missing", id="graph missing"),
        pytest.param(_without("tokenizer.json"), "tokenizer", id="tokenizer missing"),
        pytest.param(_cut, "bytes", id="data cut"),
        pytest.param(_elsewhere, "outside", id="data behind a link"),
        pytest.param(_rename("../outside.data"), "names the file", id="data above"),
        pytest.param(_rename("/etc/hostname"), "names the file", id="data at an absolute path"),
        pytest.param(
            _config(lambda m: m["decoder"].update(filename="../x.onnx")),
            "names the file",
            id="graph above",
        ),
        pytest.param(_config(lambda m: m.pop("decoder")), "describe", id="no decoder"),
        pytest.param(
            _config(lambda m: m["decoder"].update(num_hidden_layers=0)),
            "num_hidden_layers",
            id="no layers",
        ),
        pytest.param(lambda f: (f / "genai_config.json").write_text("{"), "describe", id="no JSON"),
        pytest.param(
            lambda f: (f / "model.onnx").write_bytes(b"\xff" * 500), "no ONNX graph", id="no graph"
        ),
    ],
)
def test_broken_folders_are_refused_and_fail_the_gate(
    damage: Callable[[Path], None], match: str, copy: Path, source: Path
) -> None:
    damage(copy)
    with pytest.raises(FormatError, match=match):
        RUNTIME.open(copy, threads=1)
    result = verify(source, copy, threads=1)
    assert result.status == "failed", result.checks


def test_the_gate_proves_the_float_graph(source: Path, artefact: Path) -> None:
    result = verify(source, artefact, threads=1)
    assert result.status == "proved", result.checks
    assert [c.name for c in result.checks] == [
        "files",
        "tokenizer",
        "chat template",
        "end of turn",
        "logits, short prompt",
        "logits, long prompt",
    ]


def test_the_gate_sees_wrong_weights_and_a_lost_template(source: Path, copy: Path) -> None:
    with (copy / "model.onnx.data").open("r+b") as file:
        file.seek(4 * 512 * 256 + 4096)
        file.write(np.random.default_rng(0).standard_normal(200_000).astype(np.float32).tobytes())
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    (copy / "chat_template.jinja").unlink()
    failed = [c.name for c in verify(source, copy, threads=1).checks if not c.ok]
    assert "chat template" in failed
    assert "logits, short prompt" in failed


def test_without_onnxruntime_nothing_is_proved(
    source: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util,
        "find_spec",
        lambda n, *a: None if n == "onnxruntime" else real(n, *a),
    )
    assert not RUNTIME.available().ok
    with pytest.raises(MissingError, match="onnxruntime"):
        RUNTIME.open(artefact)
    result = verify(source, artefact)
    assert result.status == "unprovable"
    assert any(extras.command("onnx") in c.detail for c in result.checks if c.ok is None)


@pytest.mark.skipif(not runtimes.get("llamacpp").available().ok, reason="needs llama.cpp")
def test_artefacts_of_two_runtimes_are_judged_by_one_reference_and_benched_alike(
    source: Path, artefact: Path, tmp_path: Path
) -> None:
    gguf, text = tmp_path / "a.gguf", tmp_path / "text"
    kanna.convert(source, gguf, encoding="q4_0", threads=1)
    text.write_text(tiny_models.TEXT * 40, encoding="utf-8")
    exact, coarse = evaluate_many(
        [artefact, gguf],
        reference=source,
        text=text,
        extent=Extent(windows=4, context=128),
        threads=1,
    )
    assert exact.reference == coarse.reference == "the source in float32 in transformers"
    assert exact.reference_perplexity == coarse.reference_perplexity
    assert exact.kl_mean < 1e-8 < coarse.kl_mean
    one, two = kanna.bench([artefact, gguf], prompt_tokens=64, gen_tokens=4, repeat=1, threads=1)
    assert (one.runtime, two.runtime) == ("onnx", "llamacpp")
    assert asdict(one).keys() == asdict(two).keys()
    for row in (one, two):
        assert (row.threads, row.prompt_tokens, row.gen_tokens) == (1, 64, 4)
        assert row.gen_tps > 0 and row.prompt_tps > 0 and row.ttft_s > 0 and row.peak_bytes > 0
    assert one.file_bytes == sum(p.stat().st_size for p in artefact.iterdir())


def test_energy_is_read_from_the_packages_alone(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path / "absent").joules() is None
    assert EnergyMeter(tmp_path).joules() is None

    def counter(name: str, kind: str, value: int) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "name").write_text(kind + "\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")
        (folder / "energy_uj").write_text(f"{value}\n")
        return folder

    counter("intel-rapl:0", "package-0", 5_000_000)
    counter("intel-rapl:0:0", "core", 1_000_000)
    counter("intel-rapl-mmio:0", "package-0", 5_000_000)
    counter("intel-rapl:1", "package-1", 999_000_000)
    counter("intel-rapl:2", "psys", 1)
    meter = EnergyMeter(tmp_path)
    counter("intel-rapl:0", "package-0", 8_000_000)
    counter("intel-rapl:0:0", "core", 3_000_000)
    counter("intel-rapl-mmio:0", "package-0", 8_000_000)
    counter("intel-rapl:1", "package-1", 1_000_000)  # ran over
    assert meter.joules() == pytest.approx(3 + 2)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.joules() is None


def test_folders_say_which_files_they_are(artefact: Path) -> None:
    found = files.read_folder(artefact)
    assert [p.name for p in found.data] == ["model.onnx.data"]
    assert found.decoder["num_hidden_layers"] == 3
