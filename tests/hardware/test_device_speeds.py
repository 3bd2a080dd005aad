"""Costs of encodings beside a profile: where they come from, and who predicts by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import tiny_models

import kanna
from kanna import families, formats
from kanna.cli.main import cli
from kanna.errors import FormatError, UsageError
from kanna.hardware import device_speeds, encoding_speed, measured_speed, targets
from kanna.hardware.cpu import default_threads
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.model import Model
from kanna.optimization.context import Context
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.speed_table import speed_goal
from kanna.sources import open_source

COSTS = {"q8_0": 50.0, "q4_0": 40.0, "f16": 90.0, "f32": 180.0}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, a cache and a configuration folder of its own."""
    monkeypatch.setenv("KANNA_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
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


def test_this_machine_takes_what_was_measured_on_it(home: Path) -> None:
    model, gguf = model_of(home), formats.get("gguf")
    assert any("bench SRC --encodings" in n for n in kanna.targets("here", measure=True).notes)
    mine = table(measured_speed.shapes_mark(model))
    measured_speed.keep(mine, model, gguf)
    unfinished, elsewhere = replace(mine, error=None), replace(mine, threads=mine.threads + 7)
    measured_speed.keep(elsewhere, model, gguf)
    added = kanna.targets("here", measure=True, overwrite=True)
    assert added.speeds == [mine] and not added.notes
    row = next(r for r in kanna.fit(home / "tiny", target="here").rows if r.preset == "Q8_0")
    assert row.speed_error == 0.08 and row.prompt_tokens_per_second
    measured_speed.keep(unfinished, model, gguf)
    assert measured_speed.all_of_this_machine(gguf) == []


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"format": "onnx"}, UsageError, "of gguf, which raspberry-pi-5"),
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


def test_wrong_use_and_damaged_tables_are_named(home: Path) -> None:
    for words in ({"speeds": home / "a"}, {"name": "here", "measure": True, "speeds": home / "a"}):
        with pytest.raises(UsageError, match="--speeds"):
            kanna.targets(**words)  # type: ignore[arg-type]
    # The shapes of a stranger's file are no part of a path.
    path = device_speeds.keep("raspberry-pi-5", table("../../x"))
    assert path.parent == targets.own_folder()
    assert encoding_speed.read(path).shapes == "../../x"
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    run = CliRunner().invoke(cli, ["fit", str(home / "tiny"), "--target", "raspberry-pi-5"])
    assert run.exit_code == 1 and path.name in "".join(run.stderr.split())
    assert "is no JSON" in " ".join(run.stderr.split())
