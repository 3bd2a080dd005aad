"""Weights that lie on a grid.

Recognised, kept without error, and what rounding to 16 bits does to them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import needs

import kanna
from kanna import encodings, families
from kanna.cli.main import cli
from kanna.encodings import _ggml, grid_detection
from kanna.families.views import Computed
from kanna.formats import gguf as container

GROUPS = grid_detection.detectable()
HARD = {"iq4_xs", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"}
"""Under two levels of scales, `search` does not always find those that another search chose."""
rng = np.random.default_rng(3)
WEIGHTS = (rng.standard_t(6, (48, 512)) * 0.5).astype(np.float32)


def rounded(x: np.ndarray, kind: str) -> np.ndarray:
    encoding = encodings.get(kind)
    return encoding.decode(encoding.encode(np.ascontiguousarray(x, np.float32)), x.shape[1])


def tensor(x: np.ndarray, name: str = "blk.0.ffn_up.weight") -> Computed:
    return Computed(name, np.ascontiguousarray(x, np.float32))


@pytest.fixture(scope="module", autouse=True)
def _ggml_is_here() -> None:
    needs.llama_cpp()


@pytest.mark.parametrize("name", GROUPS)
def test_what_ggml_quantized_is_found_again(name: str) -> None:
    """Dequantized to float32.

    An encoding of no more bits holds it without error, nearly every block or all.
    """
    encoding = encodings.get(name)
    x = encoding.decode(_ggml.quantize(encoding, WEIGHTS, None), 512)
    found = grid_detection.detect(tensor(x))
    assert found is not None and found.exact
    assert encodings.get(found.encoding).bits <= encoding.bits
    exact, _ = grid_detection.compare(encoding, x, encoding.encode(x, method="search"))
    assert exact.mean() == 1 if name not in HARD else exact.mean() > 0.95


@pytest.mark.parametrize("name", sorted(set(GROUPS) - HARD))
def test_what_search_quantized_is_found_again(name: str) -> None:
    encoding = encodings.get(name)
    weights = np.exp(rng.standard_normal(512)).astype(np.float32)
    x = encoding.decode(encoding.encode(WEIGHTS, weights=weights), 512)
    found = grid_detection.detect(tensor(x))
    assert found is not None and found.exact
    # The importance that a later run has is another one.
    again = encoding.decode(encoding.encode(x, weights=weights[::-1].copy()), 512)
    assert np.linalg.norm(again - x) < 1e-2 * np.linalg.norm(x)


@pytest.mark.parametrize("kind", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["q4_0", "q5_0", "q3_k", "iq4_nl"])
def test_rounding_to_16_bits_breaks_the_grid_and_it_is_known_still(name: str, kind: str) -> None:
    x = rounded(rounded(WEIGHTS, name), kind)
    found = grid_detection.detect(tensor(x))
    assert found == grid_detection.Grid(encoding=name, exact=False)
    # The codes are the ones before it was rounded.
    before, after = (encodings.get(name).encode(v) for v in (rounded(WEIGHTS, name), x))
    decoded = [encodings.get(name).decode(d, 512) for d in (before, after)]
    assert (
        np.abs(decoded[1] - decoded[0]).max()
        < 2 ** -(7 if kind == "bf16" else 10) * np.abs(decoded[0]).max()
    )


def test_ordinary_weights_lie_on_none() -> None:
    for kind in ("f32", "f16", "bf16"):
        assert grid_detection.detect(tensor(rounded(WEIGHTS, kind))) is None
    for x in (
        np.zeros((8, 64)),
        np.full((8, 64), np.nan),
        rng.standard_normal((8, 33)),
        rng.standard_normal(64),
    ):
        assert grid_detection.detect(tensor(x)) is None
    some = WEIGHTS.copy()
    some[:, 100:164] = 0  # zeros say nothing
    assert grid_detection.detect(tensor(some)) is None
    # Half of the rows on a grid are not a tensor on a grid.
    some = WEIGHTS.copy()
    some[::2] = rounded(WEIGHTS, "q4_0")[::2]
    assert grid_detection.detect(tensor(some)) is None


@pytest.mark.parametrize("scale", [2.0**-6, float(np.float16(0.0173)), 0.0173])
def test_ternary(scale: float) -> None:
    """A scale that half precision has is kept exactly, another to its rounding."""
    codes = np.sign(WEIGHTS) * (np.abs(WEIGHTS) > 0.3)
    found = grid_detection.detect(tensor(codes * np.float32(scale)))
    assert found is not None and found.encoding == "tq1_0"
    assert found.exact == bool(np.float16(scale) == np.float32(scale))


def quantized_llama(folder: Path, change: Any) -> Path:
    """A tiny llama whose matrices `change` put on a grid, as a Hugging Face folder in float32."""
    from helpers import tiny_models
    from safetensors.torch import load_file, save_file

    tiny_models.make("llama", folder)
    import torch

    weights = load_file(folder / "model.safetensors")
    for name, w in weights.items():
        if w.ndim == 2:
            weights[name] = torch.from_numpy(np.ascontiguousarray(change(w.numpy()), np.float32))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def ternary(w: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(w / np.abs(w).mean()), -1, 1) * np.float32(np.float16(np.abs(w).mean()))


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    home = tmp_path_factory.mktemp("lattice")
    found = {
        "q4_0": quantized_llama(home / "q4_0", lambda w: rounded(w, "q4_0")),
        "ternary": quantized_llama(home / "ternary", ternary),
    }
    (home / "bf16").mkdir()
    kanna.convert(found["q4_0"], home / "bf16" / "m.gguf", encoding="bf16")
    return found | {"bf16": home / "bf16" / "m.gguf"}


def converted(source: Path, out: Path, *words: str) -> list[str]:
    run = CliRunner().invoke(
        cli, ["convert", str(source), "-o", str(out), *words, "--json", "--quiet"]
    )
    assert run.exit_code == 0, run.stderr
    return json.loads(run.stdout)["notes"]


@pytest.mark.parametrize("preset", ["Q4_0", "Q4_K_M"])
def test_convert_says_what_it_found_and_what_became_of_it(
    preset: str, homes: dict[str, Path], tmp_path: Path
) -> None:
    notes = converted(homes["q4_0"], tmp_path / "m.gguf", "--preset", preset)
    assert (
        notes[-2]
        == "23 matrices lie on the grid of Q4_0, which holds what lies on it without error"
    )
    source = families.load_model(kanna.open_source(homes["q4_0"])).tensors
    file = container.read(tmp_path / "m.gguf").tensors
    same = {
        n
        for n, t in file.items()
        if len(t.shape) > 1 and np.array_equal(t.rows(0, t.shape[0]), source[n].rows(0, t.shape[0]))
    }
    kinds = {n: file[n].dtype for n in file if len(file[n].shape) > 1}
    assert same == {n for n, kind in kinds.items() if kind == "q4_0"}
    compared = "of 23 matrices on a grid that were quantized, all values compared: "
    rest = "with larger errors in some or all blocks"
    told = {"Q4_0": f"22 without error, 1 {rest}", "Q4_K_M": f"23 {rest}"}
    assert notes[-1] == compared + told[preset]


def test_convert_of_a_grid_that_bf16_broke(homes: dict[str, Path], tmp_path: Path) -> None:
    notes = converted(homes["bf16"], tmp_path / "m.gguf", "--encoding", "q4_0")
    assert notes[-2].startswith("23 matrices lie on the grid of Q4_0 but for rounding to 16 bits")
    assert notes[-1].endswith("all values compared: 23 to 16-bit rounding")
    # A dry run reads no weights; bytes of what is quantized already are carried without a word.
    assert not converted(homes["bf16"], tmp_path / "m.gguf", "--encoding", "q4_0", "--dry-run")
    assert not [
        n
        for n in converted(tmp_path / "m.gguf", tmp_path / "n.gguf", "--encoding", "q4_0")
        if "grid" in n
    ]


def optimized(source: Path, home: Path, *words: str) -> dict[str, Any]:
    from helpers import tiny_models

    home.mkdir()
    (home / "text.txt").write_text(tiny_models.TEXT * 30, encoding="utf-8")
    text = str(home / "text.txt")
    usual = [
        "--calibration",
        text,
        "--text",
        text,
        "--tokens",
        "1024",
        "--windows",
        "1",
        "--threads",
        "1",
    ]
    command = [
        "optimize",
        str(source),
        "-o",
        str(home / "out"),
        "--effort",
        "fast",
        "--json",
        "--quiet",
    ]
    run = CliRunner().invoke(
        cli, [*command, *usual, *words], env={"KANNA_CACHE": str(home / "cache")}
    )
    assert run.exit_code == 0, run.stderr
    return json.loads(run.stdout)


def test_optimize_needs_no_more_bytes_than_the_grid(
    small: None, homes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoding that holds the grid costs nothing: the file is the source, in fewer bits."""
    from importlib import import_module

    measure = import_module("kanna.optimization.measure")
    monkeypatch.setattr(measure, "CANDIDATES", ("q3_k", "q4_0", "q8_0", "f16"))
    monkeypatch.setattr(measure, "ROWS", 16)
    monkeypatch.setattr(measure, "HEAD_ROWS", 32)
    found = optimized(homes["ternary"], tmp_path / "home", "--bpw", "2.2")
    assert found["encodings"]["tq1_0"] == 23 and found["predicted"] == 0
    costs = json.loads((tmp_path / "home" / "out" / "measure.json").read_text())["costs"]
    assert all(by["tq1_0"] == 0 < by["q8_0"] for by in costs.values())
    assert any(n.startswith("23 matrices lie on the grid of TQ1_0") for n in found["notes"])
    assert "lie on the grid" in (tmp_path / "home" / "out" / "report.html").read_text()
    file = container.read(Path(found["artefact"])).tensors
    source = families.load_model(kanna.open_source(homes["ternary"])).tensors
    for name, one in source.items():
        rows = one.shape[0] if len(one.shape) > 1 else 1
        np.testing.assert_array_equal(file[name].rows(0, rows), one.rows(0, rows), err_msg=name)


def test_costs_of_a_grid(
    small: None, homes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own encoding costs nothing; where bf16 broke it, less than eight bits would."""
    from importlib import import_module

    from kanna._util.progress import Silent
    from kanna.calibration import statistics

    measure = import_module("kanna.optimization.measure")
    monkeypatch.setattr(measure, "CANDIDATES", ("q4_0", "q8_0", "f16"))
    monkeypatch.setattr(measure, "ROWS", 16)
    monkeypatch.setattr(measure, "HEAD_ROWS", 32)
    (tmp_path / "text.txt").write_text(
        "Some words of text, over and over again. " * 60, encoding="utf-8"
    )
    for what in ("q4_0", "bf16"):
        kanna.calibrate(
            homes[what], tmp_path / what, calibration=[tmp_path / "text.txt"], tokens=512
        )
        model = families.load_model(kanna.open_source(homes[what]))
        stats = statistics.read(tmp_path / what)
        found = measure.measure(
            model, stats, tmp_path / f"{what}.json", threads=1, progress=Silent()
        ).costs
        for name, by in found.items():
            assert by["q4_0"] == 0 if what == "q4_0" else 0 < by["q4_0"] < 0.5 * by["q8_0"], name


def test_a_source_that_is_quantized_is_carried_at_no_cost(
    homes: dict[str, Path], tmp_path: Path
) -> None:
    from importlib import import_module

    measure = import_module("kanna.optimization.measure")
    kanna.convert(homes["ternary"], tmp_path / "m.gguf", encoding="tq2_0")
    model = families.load_model(kanna.open_source(tmp_path / "m.gguf"))
    name = "blk.0.ffn_up.weight"
    assert grid_detection.detect(model.tensors[name]) == grid_detection.Grid(
        encoding="tq2_0", exact=True
    )
    assert "tq2_0" in [e.name for e in measure.candidates(model.tensors[name])]
    assert grid_detection.detect_all(model.tensors) == {}, "nothing new to whoever quantized it"
