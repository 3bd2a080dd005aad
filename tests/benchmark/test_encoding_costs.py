"""What encodings cost is measured in llama.cpp, kept, and used by fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import tiny_models

import kanna
from kanna import encodings, families, formats
from kanna.benchmark import costs
from kanna.benchmark.costs import base as costs_base
from kanna.benchmark.costs import gguf as gguf_costs
from kanna.benchmark.skeleton import Skeletons, few_rows
from kanna.cli.main import cli
from kanna.errors import OutputError, UsageError
from kanna.formats import gguf
from kanna.hardware import encoding_speed_file, measured_speed
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.token_work import TensorWork
from kanna.optimization.context import Context
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.speed_table import speed_goal
from kanna.sources import open_source

QUICK = ["q8_0", "q4_0", "bf16"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model, and a cache of its own."""
    folder = tmp_path_factory.mktemp("encodings")
    tiny_models.make("llama", folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KANNA_CACHE", str(folder / "cache"))
        patch.setattr(gguf_costs, "ROUNDS", 3)
        patch.setattr(gguf_costs, "PROMPT", 32)
        patch.setattr(encodings, "candidates", lambda: QUICK[:2])
        yield folder


def test_a_skeleton_is_the_model_cut_to_some_layers(home: Path, tmp_path: Path) -> None:
    source = open_source(home / "tiny")
    model = families.load_model(source)
    skeletons = Skeletons(source, model)
    assert skeletons.layers > 1
    skeletons.write(tmp_path / "a.gguf", 1, {"blk.0.ffn_up.weight": "q4_0"})
    file = gguf.read(tmp_path / "a.gguf")
    assert file.value("llama.block_count") == 1
    whole = {name: t.shape for name, t in model.tensors.items()}
    assert {name: t.shape for name, t in file.tensors.items()} == {
        name: shape for name, shape in whole.items() if not re.match(r"blk\.[1-9]", name)
    }
    assert file.tensors["blk.0.ffn_up.weight"].dtype == "q4_0"


def test_files_of_chance_have_as_many_scales_as_weights_have() -> None:
    """A CPU that looks scales up in a table is slower where they differ."""
    rows = few_rows("q8_0", 288)
    scales = rows.reshape(-1, 34)[:, :2].copy().view(np.float16)
    assert len(np.unique(scales)) > 1000
    assert len(few_rows("q8_0", 1 << 15)) == 8 and len(few_rows("q8_0", 64, ones=True)) == 1


def test_a_table_is_scaled_to_files_that_were_timed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(home / "tiny")
    bench = gguf_costs.SkeletonBench(source, families.load_decoder(source), 1, home)
    timed, times = bench._timed, list[Any]()  # pyright: ignore[reportPrivateUsage]

    def once(files: Mapping[Path, bool]) -> list[Any]:
        times[:] = times or timed(files)
        return times

    monkeypatch.setattr(bench, "_timed", once)
    alike = dict.fromkeys(("q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "q5_0"), 50.0)
    table = EncodingSpeeds(machine="here", token=9.0, generation=alike)
    usual = bench.finished(table)
    assert usual.error is not None and usual.error >= costs_base.LEAST_ERROR
    again = bench.finished(table.slower(100.0, error=0.0))
    # Both are what was timed, not what they were before.
    assert again.token == pytest.approx(usual.token) and again.error == usual.error
    assert again.generation == pytest.approx(usual.generation)


def test_a_slower_table_predicts_as_many_fewer_tokens() -> None:
    work = [("q8_0", TensorWork(share=1.0, weights=1e6, head=False, shape="1000x1000"))]
    shaped = {"1000x1000": {"q8_0": 40.0}}
    table = EncodingSpeeds(
        machine="here",
        token=9.0,
        prompt_token=3.0,
        generation={"q8_0": 50.0},
        prompt={"q8_0": 30.0},
        by_shape=shaped,
        prompt_by_shape=shaped,
    )
    before = table.predict(work)
    after = table.slower(2.0, prompt=4.0, error=0.1).predict(work)
    assert before.generation and before.prompt and after.generation and after.prompt
    assert after.generation == pytest.approx(before.generation / 2)
    assert after.prompt == pytest.approx(before.prompt / 4)
    assert after.error == 0.1


def test_no_part_of_a_token_takes_less_than_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of which rounding took a cost below zero would be refused where it is read."""
    source = open_source(home / "tiny")
    bench = gguf_costs.SkeletonBench(source, families.load_decoder(source), 1, home)
    for taken in np.linspace(1e-3, 1, 50).tolist():
        times = [SimpleNamespace(generation=[s], prompt=[s]) for s in (taken, taken / 100)]
        monkeypatch.setattr(bench, "_timed", lambda *_, times=times: times)
        table = bench.base()
        written = json.loads(json.dumps(table.to_dict()))
        assert encoding_speed_file.parse(written, "a table").prompt_token >= 0


def test_costs_are_measured_kept_and_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["bench", str(home / "tiny"), "--encodings", "--threads", "1", "--json"]
    run = CliRunner().invoke(cli, [*command, "--export", str(home / "speeds.json")])
    assert run.exit_code == 0, run.stderr
    [made] = json.loads(run.stdout)["speeds"]
    assert set(made["generation"]) == set(made["prompt"]) == set(made["head"]) == set(QUICK)
    assert min(*made["generation"].values(), *made["prompt"].values()) > 0
    assert made["token"] >= 0 and made["error"] > 0 and made["threads"] == 1
    for name, (low, high) in made["spread"].items():
        assert 0 < low <= made["generation"][name] <= high

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(gguf_costs, "ask", never)
    shown = CliRunner().invoke(cli, command[:-1])
    assert shown.exit_code == 0 and "Microseconds per million weights" in shown.stdout
    source = open_source(home / "tiny")
    model = families.load_model(source)
    kept = measured_speed.cached(model, formats.get("gguf"), 1)
    assert kept == encoding_speed_file.read(home / "speeds.json")
    monkeypatch.setattr(measured_speed, "default_threads", lambda: 1)
    fitted = kanna.fit(home / "tiny", memory="1GB")
    rows = {row.preset: row for row in fitted.rows}
    assert any("costs of encodings" in note for note in fitted.notes)
    assert rows["Q8_0"].prompt_tokens_per_second and rows["Q8_0"].speed_error == made["error"]
    place = measured_speed.place(model, 1, formats.get("gguf"))
    place.write_text(place.read_text(encoding="utf-8").replace("q4_0", "q5_0"), encoding="utf-8")
    assert measured_speed.cached(model, formats.get("gguf"), 1) is None  # somebody wrote there
    there = kanna.fit(home / "tiny", memory="1GB", speeds=home / "speeds.json")
    assert rows["Q8_0"] in there.rows


def test_what_contradicts_itself_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="none were asked for"):
        kanna.bench(home / "tiny", export=home / "a.json")
    with pytest.raises(UsageError, match="2 shapes for one file"):
        kanna.bench([home / "tiny", home / "tiny"], encodings=True, export=home / "a.json")
    with pytest.raises(UsageError, match="none were asked for"):
        kanna.bench(home / "tiny", format="mlx")
    with pytest.raises(UsageError, match="costs of encodings on qnn"):
        kanna.bench(home / "tiny", encodings=True, provider="qnn")
    with pytest.raises(OutputError, match="no does not exist"):
        kanna.bench(home / "tiny", encodings=True, export=home / "no" / "a.json")
    with pytest.raises(UsageError, match="not measured for safetensors"):
        costs.get("safetensors")


def test_optimize_takes_what_is_kept_of_this_machine(home: Path) -> None:
    source = open_source(home / "tiny")
    model = families.load_decoder(source)
    table = EncodingSpeeds(
        machine="here",
        token=9.0,
        threads=3,
        generation={"q8_0": 50.0, "q4_0": 40.0, "bf16": 90.0},
        shapes="x",
        error=0.1,
    )
    measured_speed.keep(table, model, formats.get("gguf"))
    asked = OptimizeRequest(source=home, out=home / "out", format="gguf", bpw=5.0, min_speed=9.0)
    context = Context(threads=3)
    goal = speed_goal(asked, source, model, context)
    assert goal is not None and goal.table == table and goal.floor == 9.0
    assert any("shapes of another model" in note for note in context.notes)
    assert set(goal.work) == {n for n, t in model.tensors.items() if len(t.shape) == 2} - {
        "token_embd.weight" if "output.weight" in model.tensors else ""
    }
