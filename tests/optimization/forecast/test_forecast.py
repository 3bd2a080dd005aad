"""What an optimization is expected to take, and what is chosen by a time budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import hollow, tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

import kanna
from kanna import families
from kanna._util import extras
from kanna._util.units import parse_duration
from kanna.calibration import texts, windows
from kanna.cli.main import cli
from kanna.errors import MissingError, OutputError, UsageError
from kanna.formats.onnx.static_shapes import StaticShape
from kanna.hardware.accelerators import Accelerator
from kanna.optimization import STAGES, deadline, forecast, time_budget
from kanna.optimization.context import Context
from kanna.optimization.forecast import (
    MachineRates,
    ModelShapes,
    SearchExtent,
    accelerator,
    predict,
    rates,
)
from kanna.optimization.forecast.encoding_work import mixture, vectors
from kanna.optimization.forecast.search_work import whole
from kanna.optimization.forecast.shapes import MatrixShape
from kanna.optimization.guard import guard_tokens
from kanna.optimization.measure import CANDIDATES
from kanna.optimization.request import EFFORTS, OptimizeRequest

RATES = MachineRates(
    products=8e10,
    feedback=3e9,
    search=8e7,
    factor=2.4e10,
    copied=1e10,
    disk=5e8,
    python=rates.REFERENCE_PYTHON,
)
LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def _shapes(
    layers: int, hidden: int = 512, vocabulary: int = 2000, experts: int = 1
) -> ModelShapes:
    def matrix(name: str, site: str | None, rows: int) -> MatrixShape:
        stacked = experts if "exps" in name else 1
        return MatrixShape(
            name=name,
            kind=name.split(".")[-1],
            site=site,
            rows=rows * stacked,
            columns=hidden,
            experts=stacked,
            block=hidden,
        )

    body = [
        matrix(f"blk.{i}.{part}", f"blk.{i}.{site}", hidden)
        for i in range(layers)
        for part, site in (("attn_q", "attn_in"), ("ffn_up_exps", "ffn_in"))
    ]
    matrices = (matrix("token_embd.weight", "head", vocabulary), *body)
    return ModelShapes(
        matrices=matrices,
        vocabulary=vocabulary,
        hidden=hidden,
        layers=layers,
        heads=hidden,
        used=min(2, experts),
        parameters=sum(m.weights for m in matrices),
        window=512,
    )


def _extent(
    effort: str = "max", tokens: int = 8192, windows: int = 8, threads: int = 2
) -> SearchExtent:
    chosen = EFFORTS[effort]
    return SearchExtent(
        effort=chosen,
        tokens=tokens,
        windows=windows,
        candidates=CANDIDATES,
        bits=4.5,
        threads=threads,
        probes=chosen.probing,
        levels=chosen.probing,
        swaps=chosen.swaps,
        corrects=chosen.correction,
        tunes=chosen.tuning,
    )


def _adapter() -> Any:
    return SimpleNamespace(
        candidates=lambda: None,
        supports_probing=True,
        supports_levels=True,
        supports_local_search=True,
        supports_tuning=True,
        compares=True,
    )


def _predicted(shapes: ModelShapes, extent: SearchExtent) -> forecast.Forecast:
    return predict(shapes, extent, RATES, available=1 << 50)


def test_every_stage_is_predicted() -> None:
    stages = _predicted(_shapes(2), _extent()).stages
    assert [stage.stage for stage in stages] == [*STAGES]
    made = [stage for stage in stages if stage.stage != "guard"]
    assert all(stage.seconds > 0 and stage.memory > 0 for stage in made)


def test_a_plan_mixes_encodings_around_its_bits() -> None:
    mixed = mixture(4.6, 512, CANDIDATES)
    assert sum(mixed.values()) == pytest.approx(1)
    assert any(map(vectors, mixed)) and not all(map(vectors, mixed))
    plain = [name for name in CANDIDATES if not vectors(name)]
    assert not any(map(vectors, mixture(4.6, 512, plain)))
    assert list(mixture(16, 512, CANDIDATES)) == ["f16"]
    assert list(mixture(4.6, 288, CANDIDATES)) == ["iq4_nl"], "no block of 256 divides 288"
    low, high = (whole(_shapes(8), replace(_extent(), bits=bits), RATES) for bits in (2.6, 6.5))
    assert low > 1.5 * high


def _seconds(extent: SearchExtent) -> dict[str, float]:
    return {stage.stage: stage.seconds for stage in _predicted(_shapes(8), extent).stages}


def test_a_cache_that_is_judged_at_the_end_of_its_context_counts() -> None:
    none, short, long = (
        _seconds(replace(_extent(), cache_tokens=tokens)) for tokens in (0, 4096, 32768)
    )
    assert none["allocate"] < short["allocate"] < long["allocate"] / 8
    assert {name: s for name, s in none.items() if name != "allocate"} == {
        name: s for name, s in long.items() if name != "allocate"
    }


def test_graphs_of_fixed_shapes_count_each_folder_and_their_context() -> None:
    bare = replace(_extent(), tunes=False, compares=False)
    codes = replace(bare, candidates=("int4_channel", "int8_channel"))
    file, short, long = (
        _seconds(replace(codes, static=static))
        for static in (None, StaticShape(64, 256), StaticShape(64, 2048))
    )
    assert 2 * file["write"] < short["write"] < 0.8 * long["write"]
    assert 1.05 * file["prove"] < short["prove"], "three folders are proved, not two files"
    few = replace(codes, candidates=("int8_channel",), static=StaticShape(64, 256))
    assert _seconds(few)["write"] < short["write"], "fewer steps are tried for 8 bits"


def test_encodings_that_are_timed_first_count(tmp_path: Path) -> None:
    none, some, all_ = (_seconds(replace(_extent(), timed=count)) for count in (0, 4, 22))
    assert none["allocate"] < some["allocate"] < all_["allocate"] / 4
    folder = tmp_path / "source"
    tiny_models.make("llama", folder)
    bare = {"bpw": 4.8, "threads": 2, "dry_run": True}
    asked = kanna.optimize(folder, tmp_path / "out", min_speed=5.0, **bare)
    plain = kanna.optimize(folder, tmp_path / "out", **bare)
    seconds = [
        next(row["predicted_seconds"] for row in made.times if row["stage"] == "allocate")
        for made in (plain, asked)
    ]
    assert seconds[0] + 20 < seconds[1], "a table is measured first, and a dry run measures none"
    with pytest.raises(UsageError, match="a time budget of 20"):
        kanna.optimize(
            folder, tmp_path / "out", min_speed=5.0, effort="fast", time_budget="20s", **bare
        )


def test_tasks_that_guard_count_and_what_they_may_take_is_said() -> None:
    without, guarded = _extent(), replace(_extent(), guard_tokens=guard_tokens(["maths"], 40))
    assert guarded.guard_tokens == 40 * (200 + 96)
    assert _seconds(guarded)["prove"] > _seconds(without)["prove"]
    notes = [
        next(s.note for s in _predicted(_shapes(8), extent).stages if s.stage == "guard")
        for extent in (without, guarded)
    ]
    assert notes[0] == "no guard" and "where no file within the budget holds" in notes[1]


@settings(max_examples=12, deadline=None)
@given(
    layers=st.integers(1, 40),
    tokens=st.integers(512, 30_000),
    more=st.integers(1, 8),
    experts=st.sampled_from([1, 8]),
)
def test_more_takes_longer(layers: int, tokens: int, more: int, experts: int) -> None:
    base = _predicted(_shapes(layers, experts=experts), _extent(tokens=tokens))
    deeper = _predicted(_shapes(layers + more, experts=experts), _extent(tokens=tokens))
    more_tokens = _extent(tokens=tokens + 512 * more)
    longer = _predicted(_shapes(layers, experts=experts), more_tokens)
    assert deeper.cpu_seconds > base.cpu_seconds and deeper.disk > base.disk
    # Of more held-out inputs than are stored, every second is left out, or every third …
    if more_tokens.held_inputs(512) >= base.extent.held_inputs(512):
        assert longer.cpu_seconds > base.cpu_seconds
        # Stages that read a part of the text, or other text, write no more.
        assert longer.stages[0].stage == "calibrate"
        assert longer.stages[0].disk > base.stages[0].disk
    for stage, other in zip(base.stages, deeper.stages, strict=True):
        assert other.cpu_seconds >= stage.cpu_seconds and other.disk >= stage.disk
    cores = _predicted(_shapes(layers, experts=experts), _extent(tokens=tokens, threads=4))
    assert cores.seconds < base.seconds and cores.cpu_seconds == base.cpu_seconds


@settings(max_examples=12, deadline=None)
@given(
    seconds=st.floats(20, 1e6),
    layers=st.integers(1, 60),
    named=st.sampled_from([(), ("effort",), ("tokens",), ("windows", "effort")]),
)
def test_a_budget_is_kept_or_refused(seconds: float, layers: int, named: tuple[str, ...]) -> None:
    request = OptimizeRequest(
        source="", out=Path("none"), format="gguf", bpw=4.5, time_budget=seconds, named=named
    )
    shapes = _shapes(layers)
    try:
        made = time_budget.choose(request, _adapter(), shapes, RATES, 2)
    except UsageError as error:
        least = parse_duration(str(error.expected).split("at least ")[1].split(" on this")[0])
        assert least > 0.98 * seconds
        return
    assert time_budget.MARGIN * made.seconds <= seconds
    assert "effort" not in named or made.extent.effort == EFFORTS["balanced"]
    assert "tokens" not in named or made.extent.tokens == request.tokens


def test_large_models_are_evaluated_on_fewer_windows() -> None:
    request = OptimizeRequest(source="", out=Path("none"), format="gguf", bpw=4.5)
    small, large = _shapes(4), replace(_shapes(4), parameters=2_000_000_000)

    def windows(shapes: ModelShapes, **asked: Any) -> int:
        return time_budget.extent_of(replace(request, **asked), _adapter(), shapes, 2).evaluated

    assert (windows(small), windows(large), windows(large, windows=40)) == (32, 16, 40)
    assert windows(large, text="mine.txt") == 32, "of a text that was named all is read"


def test_more_time_is_used() -> None:
    request = OptimizeRequest(
        source="", out=Path("none"), format="gguf", bpw=4.5, time_budget=1e6, named=()
    )
    made = time_budget.choose(request, _adapter(), _shapes(4), RATES, 2)
    assert made.extent.swaps == 64 and made.extent.tunes


def test_what_fits_no_more_when_its_turn_comes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made, now = _predicted(_shapes(4), _extent()), 0.0
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now)
    job: Any = SimpleNamespace(
        request=SimpleNamespace(time_budget=1000.0),
        forecast=made,
        context=Context(),
    )
    clock = deadline.Deadline(job)
    needed = sum(s.seconds for s in made.stages if s.stage in ("tuning", "prove", "report"))
    now = 1000 - needed - 1
    assert clock.allows("tuning") and not job.context.notes
    now = 1000 - needed + 1
    assert not clock.allows("tuning")
    [note] = job.context.notes
    assert note.startswith("tuning was left out"), note
    job.request.time_budget = None
    assert clock.allows("tuning"), "without a time budget all is done"


def test_what_does_not_fit_into_memory_is_left_out() -> None:
    made = predict(_shapes(4), _extent(), RATES, available=1 << 20)
    assert {s.stage for s in made.stages if s.note} == {
        "gradients",
        "correction",
        "tuning",
        "guard",
    }


def test_a_full_disk_is_found_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = _predicted(_shapes(4), _extent())
    time_budget.check_disk(made, tmp_path / "out")
    free = SimpleNamespace(free=1000)
    monkeypatch.setattr(time_budget.shutil, "disk_usage", lambda _: free)
    with pytest.raises(OutputError, match="free") as error:
        time_budget.check_disk(made, tmp_path / "out")
    assert "MB" in str(error.value.expected)
    assert "the source in float32" in str(error.value.expected)
    there = _predicted(_shapes(4), replace(_extent(), referenced=True))
    with pytest.raises(OutputError) as error:
        time_budget.check_disk(there, tmp_path / "out")
    assert "float32" not in str(error.value.expected) and not there.cache
    assert there.seconds < made.seconds, "it is made before, and counted where files are proved"


def test_the_shape_of_8b(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From headers alone: nothing is written, and every stage has its figures."""
    monkeypatch.setattr("kanna.optimization.dry_run.machine_rates", lambda: RATES)
    monkeypatch.setattr(extras, "require", lambda *_: pytest.fail("headers need no extra"))
    folder = hollow.folder("llama", LLAMA_8B, tmp_path / "source")
    made = kanna.optimize(folder, tmp_path / "out", bpw=4.8, threads=2, dry_run=True)
    assert made.dry_run and not (tmp_path / "out").exists()
    assert [row["stage"] for row in made.times] == [*STAGES]
    hours = sum(row["predicted_seconds"] for row in made.times) / 3600
    assert 4 < hours < 8
    assert max(row["memory_bytes"] for row in made.times) < 6e9
    assert 20e9 < max(row["disk_bytes"] for row in made.times) < 32e9
    with pytest.raises(UsageError, match="time budget") as error:
        kanna.optimize(folder, tmp_path / "out", bpw=4.8, time_budget="1min", dry_run=True)
    assert "at least" in str(error.value.expected)
    words = ["optimize", str(folder), "-o", str(tmp_path / "out"), "--bpw", "4.8", "--dry-run"]
    done = CliRunner().invoke(cli, [*words, "--time-budget", "100h", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["dry_run"] and said["time_budget"]["seconds"] == 360_000
    shown = CliRunner().invoke(cli, words)
    assert "local-search" in shown.output and " GB" in shown.output, shown.output
    assert not (tmp_path / "out").exists()


def test_rates_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path))
    monkeypatch.setattr(rates, "_measured", lambda: RATES)
    assert rates.machine_rates() == RATES
    monkeypatch.setattr(rates, "_measured", lambda: pytest.fail("measured again"))
    assert rates.machine_rates() == RATES
    [path] = (tmp_path / "machine-rates").glob("*.json")
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception):
        rates.machine_rates()


def test_an_accelerator_counts_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch multiplies takes less; what is not known is said, and counted on the CPU."""
    rates_of = accelerator.AcceleratorRates(device="cuda", products=4e13)
    shapes, extent = _shapes(8, hidden=2048), _extent()
    without = predict(shapes, extent, RATES, available=1 << 40)
    with_it = predict(shapes, extent, replace(RATES, accelerator=rates_of), available=1 << 40)
    faster = {
        one.stage
        for one, other in zip(with_it.stages, without.stages, strict=True)
        if one.seconds < other.seconds
    }
    assert faster >= {"calibrate", "gradients"} and "prove" not in faster
    gpu = Accelerator(kind="gpu", name="A GPU", api="CUDA")
    monkeypatch.setattr(accelerator, "accelerators", lambda: (gpu,))

    def absent(_: str | None) -> str:
        raise MissingError("no torch")

    monkeypatch.setattr(accelerator, "pick_device", absent)
    assert accelerator.accelerator_rates("cpu") == (None, "")
    known, note = accelerator.accelerator_rates(None)
    assert known is None and "A GPU" in note and "not known" in note
    monkeypatch.setattr(accelerator, "pick_device", lambda _: "cpu")
    assert "built without the driver of A GPU" in accelerator.accelerator_rates(None)[1]
    monkeypatch.setattr(accelerator, "accelerators", tuple)
    assert accelerator.accelerator_rates(None) == (None, "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90 min", 5400), ("1h30m", 5400), ("45s", 45), ("45", 45), (60, 60)],
)
def test_times_mean_the_same(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "2 weeks", "0s", "h", "-5s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


@pytest.mark.usefixtures("small")
def test_held_out_windows_are_counted_as_a_text_is_cut(llama: Path, tmp_path: Path) -> None:
    """Of a short text nothing is held out: no shrinkage is chosen by it, and nothing is probed."""
    model = families.load_decoder(kanna.open_source(llama))
    names = [tmp_path / f"{name}.txt" for name in "abc"]
    for path in names:
        path.write_text(tiny_models.TEXT * 40, encoding="utf-8")
    documents, _ = texts.documents(names, model)
    for count in (1, 4, 5, 12, 13, 14, 15, 17, 30):
        cut = windows.cut(documents, model, tokens=count * windows.WINDOW)
        extent = replace(_extent(tokens=cut.ids.size), kinds=texts.kinds(names))
        assert extent.held_windows(windows.WINDOW) == int(cut.held.sum()), count
    few, more = (_predicted(_shapes(4), _extent("balanced", tokens=n)) for n in (2048, 4096))
    noted = {stage.stage: stage for stage in few.stages}
    assert "held out" in noted["probe"].note and not noted["probe"].cpu_seconds
    assert noted["calibrate"].cpu_seconds < 0.9 * more.stages[0].cpu_seconds
    assert few.extent.probes, "whether it is probed is decided when the text was cut"
