"""Optimize a real tiny model from calibration to proof, and refuse what is impossible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import needs

import kanna
from kanna import encodings, families
from kanna.calibration import statistics
from kanna.errors import PlanError
from kanna.formats import gguf
from kanna.optimization.adapters.gguf import GGUFAdapter
from kanna.optimization.constraints import Constraints
from kanna.optimization.context import Context, Workspace
from kanna.optimization.search import PlannedArtefact, search, size_range
from kanna.plan import Plan

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import optimizing, tiny_models  # noqa: E402 - needs torch
from helpers.same_bytes import differences  # noqa: E402 - needs torch

from kanna.optimization import measure  # noqa: E402 - needs torch
from kanna.optimization.adapters import gguf as adapter_module  # noqa: E402 - needs torch

QUICK = ("q2_k", "q3_k", "iq4_xs", "q4_0", "q4_k", "q5_k", "q6_k", "q8_0", "f16")


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Short windows, few rows, no encodings whose tables take seconds to make.

    The same code in less time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with optimizing.quick() as patch:
        patch.setattr(measure, "CANDIDATES", QUICK)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a text to calibrate on and another to evaluate on."""
    return optimizing.fill(tmp_path_factory.mktemp("optimize"))


def invoke(home: Path, *words: str, out: str = "out") -> Result:
    effort = [] if "--effort" in words else ["--effort", "fast"]
    return optimizing.invoke(home, *effort, *words, out=out)


def done(home: Path, *words: str, out: str = "out") -> dict[str, Any]:
    run = invoke(home, *words, out=out)
    assert run.exit_code == 0, run.stderr
    return json.loads(run.stdout)


def types(path: str | Path) -> dict[str, str]:
    return {name: t.dtype for name, t in gguf.read(Path(path)).tensors.items()}


def step(home: Path) -> int:
    """Bytes of the finest step there is: between neighbouring encodings of the smallest matrix."""
    model = families.load_model(kanna.open_source(home / "tiny"))
    choices = measure.unmeasured(model).choices(model)
    sizes = sorted(
        {o.nbytes for c in choices if c.name.endswith("attn_k.weight") for o in c.options}
    )
    return max(b - a for a, b in zip(sizes, sizes[1:], strict=False) if b < sizes[-1])


def adapter_of(source: Any, folder: Path, statistics: Path | None = None) -> GGUFAdapter:
    """The adapter of a GGUF for a source."""
    workspace = Workspace(
        source=source,
        model=families.load_model(source),
        folder=folder,
        context=Context(threads=1),
        statistics=statistics,
    )
    return GGUFAdapter(workspace)


needs_llama = pytest.mark.usefixtures("llama_cpp")


@pytest.fixture(scope="module")
def llama_cpp() -> None:
    needs.llama_cpp()


@pytest.fixture(scope="module")
def optimized(home: Path, llama_cpp: None) -> dict[str, Any]:
    """What `kanna optimize --like Q4_K_M --json` printed, with the modification times it left."""
    found = done(home, "--like", "Q4_K_M")
    found["times"] = {p: p.stat().st_mtime_ns for p in (home / "out").rglob("*") if p.is_file()}
    return found


def test_the_file_fills_the_budget_and_never_passes_it(
    home: Path, optimized: dict[str, Any]
) -> None:
    size = Path(optimized["artefact"]).stat().st_size
    assert size == optimized["file_bytes"] <= optimized["budget"]
    assert optimized["budget"] - size <= max(0.005 * optimized["budget"], step(home))


def test_it_is_proved_and_closer_than_the_preset_of_that_size(optimized: dict[str, Any]) -> None:
    assert optimized["gate"] == "proved" and optimized["rival"] == "Q4_K_M"
    assert optimized["artefact"].endswith("tiny-optimized.gguf")
    assert 0 < optimized["kl_mean"] < 0.8 * optimized["rival_kl"]
    assert optimized["predicted"] > 0 and set(optimized["seconds"]) >= {
        "calibrate",
        "measure",
        "search",
        "prove",
    }


def test_what_lies_in_the_folder(home: Path, optimized: dict[str, Any]) -> None:
    plan = Plan.model_validate_json(Path(optimized["plan"]).read_text())
    found = types(optimized["artefact"])
    by_rule = {r.pattern.strip("^$").replace("\\", ""): r.encoding for r in plan.rules}
    assert by_rule and {name: found[name] for name in by_rule} == by_rule
    assert optimized["encodings"] == {k: list(found.values()).count(k) for k in set(found.values())}
    names = {p.name for p in (home / "out").iterdir()}
    assert {
        "report.html",
        "report.json",
        "README.md",
        "plan.json",
        "measure.json",
        "statistics",
    } <= names
    assert {
        "tiny-optimized.gguf",
        "tiny-Q4_K_M.gguf",
        "tiny-optimized.md",
        "tiny-Q4_K_M.md",
    } <= names
    assert statistics.read(optimized["statistics"]).sites
    assert (
        not list((home / "out").rglob("*.partial"))
        and not (home / "out" / "statistics" / "work").exists()
    )


def test_the_report_shows_it_and_its_rival(home: Path, optimized: dict[str, Any]) -> None:
    data = json.loads((home / "out" / "report.json").read_text())
    assert [r["name"] for r in data["rows"]] == ["optimized", "Q4_K_M"]
    assert data["recommended"]["name"] == "optimized"
    assert "Q4_K_M" in data["recommended"]["why"]
    page = (home / "out" / "report.html").read_text()
    assert "optimized" in page and "Q4_K_M" in page and "within the budget" in page
    for word in (
        "--like Q4_K_M",
        "--effort fast",
        "--tokens 1024",
        "--windows 2",
        "--text",
        "--calibration",
    ):
        assert word in data["command"], word


def test_the_plan_converts_to_the_same_bytes(
    home: Path, optimized: dict[str, Any], tmp_path: Path
) -> None:
    kanna.convert(
        home / "tiny",
        tmp_path / "again.gguf",
        plan=optimized["plan"],
        statistics=optimized["statistics"],
        threads=2,
    )
    assert differences(tmp_path / "again.gguf", Path(optimized["artefact"])) == []


def test_another_budget_uses_calibration_and_measurement_again(
    home: Path, optimized: dict[str, Any]
) -> None:
    smaller = done(home, "--bpw", "3.6")
    assert smaller["file_bytes"] <= smaller["budget"] < optimized["budget"]
    assert smaller["budget"] - smaller["file_bytes"] <= max(0.005 * smaller["budget"], step(home))
    parameters = families.load_model(kanna.open_source(home / "tiny")).num_parameters
    assert smaller["budget"] == int(3.6 * parameters / 8)
    earlier = f"tiny-optimized-{optimized['file_bytes']}-bytes.gguf"
    assert optimized["left"] == [] and smaller["left"] == ["tiny-Q4_K_M.gguf", earlier]
    assert smaller["rival"] not in smaller["left"]
    assert any("of earlier runs, tiny-Q4_K_M.gguf" in note for note in smaller["notes"])
    assert optimized["memory"] is smaller["memory"] is None
    again = {p: p.stat().st_mtime_ns for p in optimized["times"] if p.parent.name == "statistics"}
    again[home / "out" / "measure.json"] = (home / "out" / "measure.json").stat().st_mtime_ns
    assert again == {p: optimized["times"][p] for p in again} and len(again) > 6
    assert smaller["seconds"]["calibrate"] + smaller["seconds"]["measure"] < 2


def test_to_the_byte(home: Path, optimized: dict[str, Any], tmp_path: Path) -> None:
    """Exactly what a plan takes is enough for it, one byte less is another plan.

    Files are as large as was said.
    """
    source, stats = kanna.open_source(home / "tiny"), Path(optimized["statistics"])
    model = families.load_model(source)
    costs = measure.measure(
        model,
        statistics.read(stats),
        home / "out" / "measure.json",
        threads=1,
        progress=Stops(None),
    )

    adapter = adapter_of(source, tmp_path, stats)

    def find(budget: int) -> PlannedArtefact:
        return search(adapter, adapter.choices(costs), budget, tmp_path / "plan.json")

    before: PlannedArtefact | None = None
    for budget in (900_000, 1_234_567):
        found = find(budget)
        made = kanna.convert(
            source,
            tmp_path / "m.gguf",
            plan=tmp_path / "plan.json",
            statistics=stats,
            threads=1,
            overwrite=True,
        )
        assert made.file_bytes == (tmp_path / "m.gguf").stat().st_size == found.file_bytes <= budget
        assert budget - found.file_bytes <= max(0.005 * budget, step(home))
        assert find(found.file_bytes) == found
        less = find(found.file_bytes - 1)
        assert less.file_bytes < found.file_bytes and less.predicted > found.predicted
        assert before is None or found.predicted < before.predicted
        before = found
    with pytest.raises(PlanError, match="below the smallest possible file"):
        find(500_000)


@needs_llama
def test_wishes_are_granted(home: Path) -> None:
    words = ["--keep", "attn_v", "--rule", "ffn_down=q6_k", "--rule", r"^blk\.0\.attn_q=q8_0"]
    words += ["--exclude", "q4_k,iq4_xs"]
    found = types(done(home, "--size", "1.6MB", *words, out="wishes")["artefact"])
    assert {t for n, t in found.items() if "attn_v" in n} == {"f16"}
    assert {t for n, t in found.items() if "ffn_down" in n} == {"q6_k"}
    assert found["blk.0.attn_q.weight"] == "q8_0"
    assert not {"q4_k", "iq4_xs"} & set(found.values())
    said = json.loads((home / "wishes" / "report.json").read_text())["command"]
    assert (
        "--keep attn_v" in said
        and "--rule ffn_down=q6_k" in said
        and "--exclude q4_k,iq4_xs" in said
    )


@needs_llama
def test_more_than_can_be_used(home: Path) -> None:
    found = done(home, "--size", "1GB")
    assert found["rival"] == "F32" and found["artefact"].endswith("tiny-F32.gguf"), (
        "what was float32 stays so"
    )
    assert found["kl_mean"] < 1e-4
    assert any("the budget is more than can be used" in note for note in found["notes"])
    assert any("F32 came out closer" in note for note in found["notes"])
    assert set(types(home / "out" / "tiny-optimized.gguf").values()) == {"f16", "f32"}
    assert "F32 came out closer" in (home / "out" / "report.html").read_text()


@needs_llama
def test_balanced_measures_what_was_predicted(home: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(adapter_module, "probe_windows", lambda _: 1)
    first = done(home, "--bpw", "4.5", "--effort", "balanced")
    kept = json.loads((home / "out" / "probe.json").read_text())
    kinds = {
        "token_embd",
        "output",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    }
    assert set(kept["kinds"]) == kinds
    assert all(np.isfinite([k["measured"], k["predicted"]]).all() for k in kept["kinds"].values())
    time = (home / "out" / "probe.json").stat().st_mtime_ns
    second = done(home, "--bpw", "4.2", "--effort", "balanced")
    assert (home / "out" / "probe.json").stat().st_mtime_ns == time
    assert second["file_bytes"] < first["file_bytes"] and second["gate"] == "proved"
    assert not [p for p in (home / "out").iterdir() if p.is_dir() and p.name != "statistics"]


class Stops:
    """Progress that is interrupted at the third tensor measured."""

    def __init__(self, when: int | None) -> None:
        self.when, self.stage, self.measured = when, "", 0

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        self.stage = stage

    def advance(self, amount: int, detail: str = "") -> None:
        self.measured += self.stage == "measure"
        if self.measured == self.when:
            raise KeyboardInterrupt

    def finish(self) -> None:
        pass


def test_interrupted_measurement_goes_on(home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    kanna.calibrate(home / "tiny", tmp_path / "stats", calibration=[home / "text.txt"], tokens=1024)
    model, stats = (
        families.load_model(kanna.open_source(home / "tiny")),
        statistics.read(tmp_path / "stats"),
    )
    path, calls = tmp_path / "measure.json", list[str]()
    costs = measure._CostMeter.costs
    monkeypatch.setattr(
        measure._CostMeter,
        "costs",
        lambda self, name, pool: calls.append(name) or costs(self, name, pool),
    )
    with pytest.raises(KeyboardInterrupt):
        measure.measure(model, stats, path, threads=1, progress=Stops(3))
    assert len(json.loads(path.read_text())["costs"]) == len(calls) == 3
    found = measure.measure(model, stats, path, threads=1, progress=Stops(None))
    assert sorted(calls) == sorted(measure.matrices(model)), "each measured once"
    path.write_text("{broken")
    again = measure.measure(model, stats, path, threads=2, progress=Stops(None))
    for name, by_encoding in found.costs.items():
        assert again.costs[name] == pytest.approx(by_encoding)
        assert (
            by_encoding["f16"] < by_encoding["q6_k"] < by_encoding["q4_k"] < by_encoding["q2_k"]
        ), name
        assert all(np.isfinite(list(by_encoding.values())))


def test_costs_without_gradients_still_rank(home: Path, tmp_path: Path) -> None:
    """Without memory for a backward pass, and with one window of text: nothing is held out."""
    (tmp_path / "short.txt").write_text(tiny_models.TEXT * 2, encoding="utf-8")
    kanna.calibrate(home / "tiny", tmp_path / "stats", calibration=[tmp_path / "short.txt"])
    model, stats = (
        families.load_model(kanna.open_source(home / "tiny")),
        statistics.read(tmp_path / "stats"),
    )
    assert (tmp_path / "stats" / "held.txt").read_text() == ""
    found = measure.measure(
        model, stats, tmp_path / "measure.json", threads=1, progress=Stops(None)
    )
    for by_encoding in found.costs.values():
        assert (
            0
            <= by_encoding["f16"]
            < by_encoding["q8_0"]
            < by_encoding["q4_0"]
            < by_encoding["q2_k"]
        )


def test_samples_stand_for_all_rows() -> None:
    weights = np.random.default_rng(0).gamma(0.5, size=1000)
    values = np.random.default_rng(1).uniform(1, 2, 1000)
    at, share = measure._sample(weights, 100)
    assert len(at) <= 100 and len(set(at)) == len(at)
    assert share.sum() == pytest.approx(weights.sum())
    assert (share * values[at]).sum() == pytest.approx((weights * values).sum(), rel=0.05)
    at, share = measure._sample(np.zeros(10), 4)
    assert share.sum() == pytest.approx(10)


IMPOSSIBLE: dict[str, tuple[list[str], int, str]] = {
    "no budget": ([], 2, "no budget was given"),
    "two budgets": (["--size", "1MB", "--bpw", "4"], 2, "--size and --bpw were given together"),
    "three budgets": (
        ["--like", "Q8_0", "--bpw", "4", "--memory", "1GB"],
        2,
        "--bpw and --like and --memory",
    ),
    "nothing": (["--bpw", "0"], 2, "a budget of nothing"),
    "bits": (["--bpw", "33"], 2, "33"),
    "unknown preset": (["--like", "Q4_K_N"], 2, "Q4_K_N"),
    "too small": (["--size", "100KB"], 1, "below the smallest possible file"),
    "no equal sign": (["--size", "1MB", "--rule", "ffn_down"], 2, "PATTERN=ENCODING"),
    "unknown encoding": (["--size", "1MB", "--rule", "ffn_down=q9_k"], 1, "q9_k"),
    "useless encoding": (["--size", "1MB", "--rule", "ffn_down=f64"], 2, "f64"),
    "names nothing": (["--size", "1MB", "--keep", "ffn_sideways"], 2, "names no matrix"),
    "names a vector": (["--size", "1MB", "--rule", "attn_norm=q4_0"], 2, "names no matrix"),
    "no expression": (["--size", "1MB", "--keep", "("], 2, "not a regular expression"),
    "nothing left": (["--size", "1MB", "--exclude", ",".join(QUICK)], 2, "no encoding is left"),
    "effort": (["--size", "1MB", "--effort", "heroic"], 2, "heroic"),
    "text": (["--size", "1MB", "--text", "absent.txt"], 2, "absent.txt"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_is_impossible_is_said_before_anything_is_done(what: str, home: Path) -> None:
    words, code, said = IMPOSSIBLE[what]
    run = invoke(home, *words, out="never")
    assert run.exit_code == code, run.output
    assert said in run.stderr and "Traceback" not in run.stderr
    assert not (home / "never").exists()


def test_a_budget_too_small_names_the_range(home: Path) -> None:
    source = kanna.open_source(home / "tiny")
    model = families.load_model(source)
    adapter = adapter_of(source, home)
    found = size_range(adapter, adapter.choices(measure.unmeasured(model)))
    f16 = kanna.convert(source, encoding="f16", dry_run=True).file_bytes
    assert found.least < 0.3 * f16 and found.most == pytest.approx(f16, rel=0.01)
    found.check(found.least)
    with pytest.raises(PlanError, match=f"Expected: {found.least:,} to {found.most:,} bytes"):
        found.check(found.least - 1)
    # A rule narrows the range.
    kept = size_range(
        adapter, adapter.choices(measure.unmeasured(model), Constraints(keep=["ffn"]))
    )
    assert found.least < kept.least < kept.most == pytest.approx(found.most, rel=1e-4)


def test_rules_that_do_not_fit_the_rows_are_refused(tmp_path: Path) -> None:
    from helpers.making import gguf_file, metadata_of_a_llama

    from kanna.errors import UsageError

    rng = np.random.default_rng(0)
    tensors = {"token_embd.weight": rng.standard_normal((64, 96)).astype(np.float16)}
    tensors["output_norm.weight"] = np.ones(96, np.float32)
    metadata = metadata_of_a_llama(layers=0, hidden=96, heads=2, kv_heads=2, feed=96)
    path = gguf_file(tmp_path / "m.gguf", tensors, metadata)
    model = families.load_model(kanna.open_source(path))
    Constraints(rules={"token_embd": "q4_0"}).check(model)
    with pytest.raises(
        UsageError, match="q4_k cannot hold token_embd.weight, whose rows have 96 values"
    ):
        Constraints(rules={"token_embd": "q4_k"}).check(model)
    assert all(
        96 % encodings.get(e).block == 0
        for e in measure.unmeasured(model).costs["token_embd.weight"]
    )


def test_table_for_people(optimized: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from kanna.cli.commands import optimize as command
    from kanna.cli.ui import console

    monkeypatch.setenv("COLUMNS", "200")
    screen = console()
    with screen.capture() as seen:
        command._draw(screen, {k: v for k, v in optimized.items() if k != "times"})
    said = seen.get()
    for word in ("tiny-optimized.gguf", "the size of Q4_K_M", "ratio 0.", "intact", "report.html"):
        assert word in said, word


def test_the_report_tells_the_whole_story(home: Path, optimized: dict[str, Any]) -> None:
    """Curve, pictures and kinds of text are of what was really made and measured."""
    done(home, "--like", "Q4_K_M")
    told = json.loads((home / "out" / "report.json").read_text())["optimize"]
    mine, rival = told["pictures"]
    assert {t["name"]: t["encoding"] for t in mine["tensors"]}.items() <= types(
        optimized["artefact"]
    ).items()
    assert rival["name"] == "Q4_K_M" and len(rival["tensors"]) == len(mine["tensors"])
    planned = [(p["bytes"], p["kl"]) for p in told["curve"]["planned"]]
    assert planned == sorted(planned) and [k for _, k in planned] == sorted(
        (k for _, k in planned), reverse=True
    )
    preset = {p["name"]: p for p in told["curve"]["presets"]}["Q4_K_M"]
    assert (
        preset["bytes"] == Path(optimized["artefact"]).with_name("tiny-Q4_K_M.gguf").stat().st_size
    )
    assert optimized["predicted"] < preset["kl"], "the plan is the best of its size"
    assert [r["name"] for r in told["domains"]["rows"]] == ["optimized", "Q4_K_M"]
    ours, theirs = (r["kl"]["text.txt"] for r in told["domains"]["rows"])
    assert 0 < ours < theirs and not told["domains"]["fitted"]
    assert not list((home / "out").glob(".judge-*"))
