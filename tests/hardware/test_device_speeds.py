"""Costs of encodings beside a profile: where they come from, and who predicts by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from helpers import tiny_models

import kanna
from kanna import encodings, families, formats
from kanna.benchmark import costs, load
from kanna.cli.main import cli
from kanna.encodings import grouped
from kanna.errors import FormatError, UnsupportedError, UsageError
from kanna.hardware import (
    device_speeds,
    encoding_speed,
    encoding_speed_file,
    measured_speed,
    targets,
    this_machine,
)
from kanna.hardware.cpu import default_threads
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.token_work import matrix_work
from kanna.model import Model
from kanna.optimization.context import Context
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.speed_table import speed_goal
from kanna.optimization.target_check import for_target
from kanna.sources import open_source

COSTS = {"q8_0": 50.0, "q4_0": 40.0, "f16": 90.0, "f32": 180.0}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, a cache and a configuration folder of its own."""
    monkeypatch.setenv("KANNA_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    # The model builder of ONNX takes a matrix of as many rows as the vocabulary for the head.
    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 640)
    tiny_models.make("llama", tmp_path / "tiny")
    return tmp_path


def model_of(home: Path) -> Model:
    """The tiny model."""
    return families.load_model(open_source(home / "tiny"))


def table(shapes: str, **changed: object) -> EncodingSpeeds:
    """What `bench --encodings` leaves."""
    made = EncodingSpeeds(
        machine="a board",
        token=900.0,
        prompt_token=2.0,
        threads=default_threads(),
        generation=COSTS,
        prompt=dict.fromkeys(COSTS, 20.0),
        shapes=shapes,
        error=0.08,
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def test_a_profile_of_ours_is_predicted_by_what_its_device_measured(home: Path) -> None:
    tiny, file = home / "tiny", home / "speeds.json"
    before = kanna.fit(tiny, target="raspberry-pi-5")
    file.write_text(json.dumps(table("elsewhere").to_dict()), encoding="utf-8")
    words = ["targets", "raspberry-pi-5-4gb", "--speeds", str(file)]
    run = CliRunner().invoke(cli, [*words, "--json"])
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["speeds"][0]["generation"] == COSTS
    assert "a board" in CliRunner().invoke(cli, words[:2]).stdout
    for name in ("raspberry-pi-5", "raspberry-pi-5-4gb:cpu"):
        after = kanna.fit(tiny, target=name)
        by_file = kanna.fit(tiny, speeds=file)
        rows, same = ({r.preset: r for r in one.rows} for one in (after, by_file))
        assert rows["Q8_0"].tokens_per_second == same["Q8_0"].tokens_per_second
        assert rows["Q8_0"].speed_error == 0.08
        assert any("a board" in note and "another model" in note for note in after.notes)
        assert not any("are predicted" in note for note in after.notes)
    old = {row.preset: row for row in before.rows}
    assert old["Q8_0"].tokens_per_second != rows["Q8_0"].tokens_per_second
    # A graphics processor multiplies by itself: costs are the processor's.
    other = kanna.fit(tiny, target="raspberry-pi-5:vulkan")
    assert not any("a board" in note for note in other.notes)


def test_optimize_takes_them_in_place_of_the_roofline(home: Path) -> None:
    source, model = open_source(home / "tiny"), model_of(home)
    mine = table(measured_speed.shapes_mark(model))
    device_speeds.keep("raspberry-pi-5", table("other", generation=COSTS | {"q6_k": 1.0}))
    device_speeds.keep("raspberry-pi-5", mine)
    asked = OptimizeRequest(
        source=home,
        out=home / "out",
        format="gguf",
        bpw=5.0,
        min_speed=9.0,
        target="raspberry-pi-5",
        chosen_target=targets.choose("raspberry-pi-5"),
    )
    goal = speed_goal(asked, source, model, Context(threads=1))
    assert goal is not None and goal.table == mine  # of two, the one at its own shapes
    asked = replace(asked, chosen_target=targets.choose("server-cpu"))
    goal = speed_goal(asked, source, model, Context(threads=1))
    assert goal is not None and goal.table.basis == "roofline"


def test_a_folder_is_predicted_by_the_costs_of_its_runtime_on_the_device(home: Path) -> None:
    source, model = open_source(home / "tiny"), model_of(home)
    mine = table(
        measured_speed.shapes_mark(model), format="onnx", generation=costs_of("onnx"), prompt={}
    )
    device_speeds.keep("raspberry-pi-5", mine)
    device_speeds.keep("raspberry-pi-5", table(mine.shapes))
    choice = device_speeds.choose_for("raspberry-pi-5", "onnx")
    asked = OptimizeRequest(
        source=home,
        out=home / "out",
        format="onnx",
        bpw=5.0,
        min_speed=9.0,
        target="raspberry-pi-5",
        chosen_target=choice,
    )
    goal = speed_goal(asked, source, model, Context(threads=1))
    assert goal is not None and goal.table == mine
    work = matrix_work(model)
    row = SimpleNamespace(tensors=[{"name": n, "encoding": "nbits4g32"} for n in work])
    adapter = SimpleNamespace(workspace=SimpleNamespace(model=model), names={})
    about = for_target(SimpleNamespace(request=asked, adapter=adapter), row)  # type: ignore[arg-type]
    assert about is not None and about["outside"] is None and about["encodings"] == []
    speed = mine.predict(("nbits4g32", w) for w in work.values())
    assert about["tokens_per_second"] == speed.generation and about["speed_error"] == 0.08


def test_this_machine_takes_what_was_measured_on_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, gguf = model_of(home), formats.get("gguf")
    monkeypatch.setattr(load.LoadMeter, "others", lambda _: 0.5)
    unknown, busy = kanna.targets("here", measure=True).notes
    assert "other programs took 50%" in busy
    assert "gguf" in unknown and "--measure --overwrite --format" in unknown
    mine = table(measured_speed.shapes_mark(model))
    measured_speed.keep(mine, model, gguf)
    unfinished, elsewhere = replace(mine, error=None), replace(mine, threads=mine.threads + 7)
    measured_speed.keep(elsewhere, model, gguf)
    added = kanna.targets("here", measure=True, overwrite=True)
    assert added.speeds == [mine]
    assert all("here in gguf" not in note and "(gguf)" not in note for note in added.notes)
    row = next(r for r in kanna.fit(home / "tiny", target="here").rows if r.preset == "Q8_0")
    assert row.speed_error == 0.08 and row.prompt_tokens_per_second
    measured_speed.keep(unfinished, model, gguf)
    assert measured_speed.all_of_this_machine(gguf) == []


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"format": "onnx"}, FormatError, "generation.q8_0, which ONNX does not hold"),
        ({"format": "../x"}, FormatError, "format = '../x'"),
        ({"backend": "../x"}, FormatError, "backend = '../x'"),
        ({"backend": "metal"}, UsageError, "on cpu or vulkan, which raspberry-pi-5 has"),
        ({"generation": {"q9_9": 3.0}}, FormatError, "generation.q9_9: no encoding"),
        ({"by_shape": {"64 x 64": {"q8_0": 3.0}}}, FormatError, "by_shape.'64 x 64'"),
        ({"by_shape": {"64x64": {"q8_0": 0.0}}}, FormatError, "by_shape.64x64.q8_0"),
        ({"token": 1e30}, FormatError, "token = 1e"),
        ({"generation": {"q8_0": -3.0}}, FormatError, "generation.q8_0"),
        ({"generation": {"q8_0": float("inf")}}, FormatError, "generation.q8_0"),
        ({"generation": {}}, FormatError, "names no encoding"),
        ({"kind": "other"}, FormatError, "no encoding speeds"),
    ],
)
def test_what_is_no_table_is_refused_and_nothing_is_written(
    changed: dict[str, object], kind: type[Exception], words: str, home: Path
) -> None:
    file = home / "speeds.json"
    file.write_text(json.dumps(table("x").to_dict() | changed), encoding="utf-8")
    with pytest.raises(kind, match=words):
        kanna.targets("raspberry-pi-5", speeds=file)
    assert not targets.own_folder().exists()


FOLDERS = [name for name in costs.names() if not formats.get(name).suffix]


def costs_of(format: str) -> dict[str, float]:
    """A cost for every encoding that a format holds."""
    known = map(encodings.get, (*encodings.names(), *grouped.names()))
    return {e.name: 12.0 * e.bits for e in known if formats.get(format).carries(e)}


@pytest.mark.parametrize("format", FOLDERS)
def test_a_device_holds_the_costs_of_several_runtimes(format: str, home: Path) -> None:
    tiny = home / "tiny"
    with pytest.raises(UsageError, match=f"nothing is known .* {format}") as unknown:
        kanna.fit(tiny, target="raspberry-pi-5", format=format)
    assert "targets raspberry-pi-5 --speeds FILE" in unknown.value.todo
    theirs = table("x", format=format, generation=costs_of(format), prompt={})
    for one in (table("x"), theirs, table("y"), theirs):
        file = home / "speeds.json"
        file.write_text(json.dumps(one.to_dict()), encoding="utf-8")
        held = kanna.targets("raspberry-pi-5", speeds=file)
    assert sorted(t.format for t in held.speeds) == sorted(["gguf", "gguf", format])
    assert held.to_dict()["devices"][0]["backends"]["cpu"]["formats"] == ["gguf", format]
    fitted = kanna.fit(tiny, target="raspberry-pi-5", format=format)
    rows = {row.preset: row for row in fitted.rows}
    same = {row.preset: row for row in kanna.fit(tiny, speeds=file, format=format).rows}
    assert all(row.tokens_per_second == same[p].tokens_per_second for p, row in rows.items())
    assert all(row.tokens_per_second > 0 for row in rows.values())
    # What nobody measures, such as static codes of 8 bits, counts by its bytes.
    others = [p for p, row in rows.items() if row.speed_error != 0.08]
    assert len(rows) - len(others) > len(formats.get(format).compared_presets)
    assert all(rows[p].speed_error == 0.3 for p in others)
    assert any("count by their bytes" in note for note in fitted.notes) == bool(others)
    # Nothing says that its runtime refuses an encoding, and llama.cpp's speed is not its speed.
    assert all(row.outside == 0 for row in rows.values())
    assert not any("operator table" in note for note in fitted.notes)
    assert kanna.fit(tiny, target="raspberry-pi-5").target["format"] == "gguf"  # type: ignore[index]


def test_what_was_not_measured_counts_by_its_bytes() -> None:
    known = table("x", generation={"q8_0": 85.0, "q4_0": 90.0}, prompt={"q8_0": 20.0})
    whole = known.with_roofline(["q8_0", "f16"])
    assert whole.generation["q8_0"] == 85.0 and whole.prompt["f16"] == pytest.approx(20.0)
    # 10 and 20 microseconds a bit: 14.1 in the middle, off by the root of two for both.
    assert whole.generation["f16"] == pytest.approx(16 * 200**0.5)
    assert whole.error == pytest.approx(2**0.5 - 1)
    assert known.with_roofline(["q4_0"]) == known


def test_costs_of_a_gpu_are_of_its_backend(home: Path) -> None:
    tiny = home / "tiny"
    made = table("x", format="mlx", backend="metal", generation=costs_of("mlx"), prompt={})
    path = device_speeds.keep("mac-m1", made)
    assert path.name.startswith("mac-m1.mlx.metal.")
    for name in ("mac-m1", "mac-m1-16gb:metal"):
        fitted = kanna.fit(tiny, target=name, format="mlx")
        assert any("a board" in note for note in fitted.notes)
        assert fitted.target is not None and fitted.target["backend"] == "metal"
    device_speeds.keep("mac-m2", replace(made, backend="cpu"))
    # The first backend that runs the format is meant where none is named.
    assert kanna.fit(tiny, target="mac-m2", format="mlx").target["backend"] == "cpu"  # type: ignore[index]
    with pytest.raises(UsageError, match="nothing is known of what mac-m2-8gb:metal"):
        kanna.fit(tiny, target="mac-m2:metal", format="mlx")


@pytest.mark.parametrize("gpu", ["metal", "cuda"])
def test_a_gpu_of_this_machine_is_a_backend_of_its_profile(gpu: str, home: Path) -> None:
    own = targets.own_folder()
    own.mkdir(parents=True)
    profile = this_machine.profile({"cpu": ["gguf"], gpu: ["mlx"]})
    (own / "here.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    choice = device_speeds.choose_for("here", "mlx")
    assert choice is not None and choice.backend.name == gpu
    assert choice.backend.efficiency is None, "no speed that nobody measured"
    assert targets.choose("here").backend.name == "cpu"


def test_where_nobody_measured_a_format_speed_is_not_promised(home: Path) -> None:
    own = targets.own_folder()
    own.mkdir(parents=True)
    text = targets.files()["raspberry-pi-5"].read_text(encoding="utf-8")
    runs = text.replace("operators: CPU", "operators: CPU\n    formats: [gguf, onnx]")
    (own / "board.yaml").write_text(runs, encoding="utf-8")
    fitted = kanna.fit(home / "tiny", target="board", format="onnx")
    assert not any(row.tokens_per_second for row in fitted.rows)
    assert any("--speeds FILE" in note for note in fitted.notes)
    choice = device_speeds.choose_for("board", "onnx")
    assert choice is not None
    with pytest.raises(UnsupportedError, match="no speed of onnx was measured on board-8gb:cpu"):
        encoding_speed.of_target(choice)
    (own / "board.yaml").write_text(runs.replace("onnx]", "onx]"), encoding="utf-8")
    with pytest.raises(FormatError, match="backends.cpu.formats with 'onx'.*mean onnx"):
        targets.choose("board")


def test_wrong_use_and_damaged_tables_are_named(home: Path) -> None:
    for words, option in (
        ({"speeds": home / "a"}, "--speeds"),
        ({"name": "here", "measure": True, "speeds": home / "a"}, "--speeds"),
        ({"name": "here", "format": "onnx"}, "--format"),
        ({"name": "here", "measure": True, "model": home}, "--model"),
        ({"name": "here", "measure": True, "format": "onx"}, "not measured for onx"),
    ):
        with pytest.raises(UsageError, match=option):
            kanna.targets(**words)  # type: ignore[arg-type]
    assert not targets.own_folder().exists()
    # The shapes of a stranger's file are no part of a path.
    path = device_speeds.keep("raspberry-pi-5", table("../../x"))
    assert path.parent == targets.own_folder()
    assert encoding_speed_file.read(path).shapes == "../../x"
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    run = CliRunner().invoke(cli, ["fit", str(home / "tiny"), "--target", "raspberry-pi-5"])
    assert run.exit_code == 1 and path.name in "".join(run.stderr.split())
    assert "is no JSON" in " ".join(run.stderr.split())
