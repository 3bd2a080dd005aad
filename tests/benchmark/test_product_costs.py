"""What encodings cost is measured in the runtime of every format, kept, and used by fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import optimizing, tiny_models

import kanna
from kanna import families, formats, runtimes
from kanna.benchmark import costs
from kanna.benchmark.costs import product_child, products
from kanna.cli.main import cli
from kanna.errors import MissingError, UsageError
from kanna.hardware import encoding_speed_file, measured_speed
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.token_work import TensorWork, matrix_work
from kanna.plan import mlx, onnx, openvino
from kanna.runtimes.base import Availability
from kanna.sources import open_source

FOLDERS = [name for name in costs.names() if not formats.get(name).suffix]
QUICK = {
    "mlx": {"affine4g32_f16", "f16"},
    "onnx": {"nbits4g32", "nbits8g32", "nbits8g128s"},
    "openvino": {"nbits4g32", "f16"},
}
MODULES = {"mlx": "mlx_lm", "onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model, a cache of its own, and few encodings."""
    folder = tmp_path_factory.mktemp("products")
    with optimizing.quick() as patch:
        patch.setitem(tiny_models.SMALL, "num_hidden_layers", 2)
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        tiny_models.make("llama", folder / "tiny")
        patch.setenv("KANNA_CACHE", str(folder / "cache"))
        patch.setattr(mlx, "_WIDTHS", ((4, 32),))
        patch.setattr(onnx, "CANDIDATES", ("nbits4g32", "nbits8g32", "nbits8g128s"))
        patch.setattr(openvino, "CANDIDATES", ("nbits4g32", "f16"))
        patch.setattr(products, "ROUNDS", 2)
        patch.setattr(products, "TOKENS", (4, 8))
        patch.setattr(products, "PROMPTS", {False: 16, True: 16})
        patch.setattr(products, "WEIGHTS", {False: 1_000_000, True: 300_000})
        yield folder


@pytest.mark.parametrize("format", FOLDERS)
def test_costs_are_measured_kept_and_used(
    format: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(MODULES[format])
    command = ["bench", str(home / "tiny"), "--encodings", "--threads", "1", "--format", format]
    exported = home / f"{format}.json"
    run = CliRunner().invoke(cli, [*command, "--json", "--export", str(exported)])
    assert run.exit_code == 0, run.stderr
    [made] = json.loads(run.stdout)["speeds"]
    assert made["format"] == format and MODULES[format].partition("_")[0] in made["build"]
    assert set(made["generation"]) == set(made["prompt"]) == set(made["head"]) == QUICK[format]
    model = families.load_decoder(open_source(home / "tiny"))
    work = matrix_work(model)
    shapes = {w.shape for w in work.values()}
    assert set(made["by_shape"]) == set(made["prompt_by_shape"]) == shapes
    assert all(cost > 0 for known in made["by_shape"].values() for cost in known.values())
    assert made["token"] >= 0 and made["error"] > 0 and made["threads"] == 1

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(products, "ask", never)
    again = CliRunner().invoke(cli, command)
    assert again.exit_code == 0 and "Microseconds per million weights" in again.stdout
    kept = measured_speed.cached(model, formats.get(format), 1)
    assert kept is not None and kept == encoding_speed_file.read(exported)
    monkeypatch.setattr(measured_speed, "default_threads", lambda: 1)
    fitted = kanna.fit(home / "tiny", memory="1GB", format=format)
    assert any("costs of encodings" in note for note in fitted.notes)
    assert any(row.speed_error == made["error"] for row in fitted.rows)
    generation = kept.generation
    plain = {n: max(QUICK[format], key=lambda e: generation[e]) for n in work}
    speed = kept.predict((plain[n], w) for n, w in work.items())
    assert speed.generation and speed.prompt and speed.error == made["error"]
    with pytest.raises(UsageError, match=f"costs of encodings of {format} say nothing of gguf"):
        kanna.fit(home / "tiny", memory="1GB", speeds=exported)


def test_this_machine_as_a_target_holds_the_costs_of_every_runtime(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [f for f in FOLDERS if runtimes.get(formats.get(f).runtime).available().ok]
    monkeypatch.setenv("KANNA_CONFIG", str(home / "config"))
    for module in (costs, measured_speed):
        monkeypatch.setattr(module, "default_threads", lambda: 1)
    words = ["--measure", "--format", ",".join(here), "--model", str(home / "tiny")]
    run = CliRunner().invoke(cli, ["targets", "here", *words, "--json"])
    assert run.exit_code == 0, run.stderr
    made = json.loads(run.stdout)
    assert sorted(table["format"] for table in made["speeds"]) == sorted(here)
    backends = made["devices"][0]["backends"].values()
    assert {*here} <= {format for backend in backends for format in backend["formats"]}
    assert not any(f in note for f in here for note in made["notes"])
    for format in here:
        fitted = kanna.fit(home / "tiny", target="here", format=format)
        assert all(row.tokens_per_second > 0 for row in fitted.rows)
        assert any("encodings that were measured on" in note for note in fitted.notes)
        assert fitted.target is not None and fitted.target["format"] == format


@pytest.mark.parametrize("format", FOLDERS)
def test_a_runtime_that_is_absent_is_said_at_once(
    format: str, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything is calibrated; each runtime says itself what installs it."""
    runtime = runtimes.get(formats.get(format).runtime)
    extra = runtime.extra

    def absent(*_: object) -> Availability:
        return Availability(ok=False, remark=f"{extra} not installed here", how_to_install="pip")

    monkeypatch.setattr(type(runtime), "available", absent)
    monkeypatch.setattr("importlib.util.find_spec", absent_package)
    with pytest.raises(MissingError, match="not installed here"):
        costs.get(format).require()


def absent_package(_: str) -> None:
    """No package is here."""


def test_a_shape_has_its_own_cost() -> None:
    table = EncodingSpeeds(
        machine="here",
        token=0.0,
        generation={"q8_0": 50.0},
        by_shape={"64x32": {"q8_0": 80.0}},
        prompt={"q8_0": 10.0},
        prompt_by_shape={"64x32": {"q8_0": 20.0}},
    )
    small, other = (
        TensorWork(share=1.0, weights=2048.0, head=False, shape=shape)
        for shape in ("64x32", "32x64")
    )
    assert table.seconds("q8_0", small) == pytest.approx(2048 * 80e-12)
    assert table.seconds("q8_0", other) == pytest.approx(2048 * 50e-12)
    both = table.predict([("q8_0", small), ("q8_0", other)])
    assert both.prompt == pytest.approx(1 / (2048 * 30e-12))
    assert encoding_speed_file.parse(table.to_dict(), "a table") == table


def test_products_take_turns() -> None:
    order: list[tuple[str, int]] = []

    def run(name: str) -> Callable[[int], object]:
        def multiply(tokens: int) -> None:
            order.append((name, tokens))

        return multiply

    pair = [product_child.Product(run=run(name), weights=10**9) for name in "ab"]
    product_child.take_turns(pair, 3)
    assert all(len(p.token) == 3 and len(p.prompt) == 2 for p in pair)
    assert order[:4] == [("a", 1), ("b", 1), ("a", 1), ("b", 1)]
