"""Swaps of encodings and tuned scales.

Decided in the real runtime, within the budget, resumed, and told truly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs

import kanna
from kanna import encodings, families
from kanna.errors import PlanError
from kanna.formats import gguf
from kanna.model import columns
from kanna.optimization import local_search, moves, rewrite
from kanna.plan import Plan, RuleModel, load
from kanna.plan import tuning as tunings
from kanna.plan.allocate import Choice, Option, allocate

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
needs.llama_cpp()

from helpers import optimizing, tiny_models  # noqa: E402 - needs torch
from helpers.same_bytes import differences  # noqa: E402 - needs torch

from kanna import optimization as package  # noqa: E402 - needs torch
from kanna.optimization import measure, probe  # noqa: E402 - needs torch
from kanna.optimization.acceptance import EVALUATED  # noqa: E402 - needs torch
from kanna.optimization.adapters import gguf as adapter_module  # noqa: E402 - needs torch
from kanna.optimization.context import Context, Workspace  # noqa: E402 - needs torch
from kanna.optimization.correction import correction  # noqa: E402 - needs torch
from kanna.optimization.tuning import distillation, learnable  # noqa: E402 - needs torch

QUICK = ("q2_k", "q3_k", "q4_0", "q4_k", "q5_k", "q6_k", "q8_0", "f16")
TRIES = 3


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Short windows, few rows, few tries: the same code in less time."""
    with optimizing.learning(tmp_path_factory.mktemp("cache")) as patch:
        patch.setattr(measure, "CANDIDATES", QUICK)
        patch.setattr(adapter_module, "probe_windows", lambda _: 1)
        patch.setitem(package.EFFORTS, "max", replace(package.EFFORTS["max"], swaps=TRIES))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return optimizing.fill(tmp_path_factory.mktemp("swaps"))


def optimize(home: Path, out: str, progress: Any = None) -> dict[str, Any]:
    found = kanna.optimize(
        home / "tiny",
        home / out,
        bpw=3.6,
        effort="max",
        calibration=[home / "text.txt"],
        tokens=1024,
        text=home / "other.txt",
        windows=2,
        threads=1,
        progress=progress,
    )
    return found.to_dict()


@pytest.fixture(scope="module")
def best(home: Path) -> dict[str, Any]:
    """What `kanna optimize --bpw 3.6 --effort max` found."""
    return optimize(home, "out")


def workspace_of(source: Any, folder: Path, statistics: Path) -> Workspace:
    """A calibrated source in a folder."""
    return Workspace(
        source=source,
        model=families.load_model(source),
        folder=folder,
        context=Context(threads=1),
        statistics=statistics,
    )


def types(path: str | Path) -> dict[str, str]:
    return {name: t.dtype for name, t in gguf.read(Path(path)).tensors.items()}


def test_swaps_are_tried_in_the_runtime_and_told(home: Path, best: dict[str, Any]) -> None:
    told = json.loads((home / "out" / "report.json").read_text())["optimize"]["swaps"]
    assert best["swaps"]["tried"] == len(told) == TRIES
    assert best["swaps"]["kept"] == sum(one["kept"] for one in told)
    for one in told:
        assert one["changed"] > 0 and one["before"] > 0 and one["after"] > 0
        assert not one["kept"] or one["after"] < one["before"], "what is kept has gained"
    assert best["swaps"]["decided"]["after"] <= best["swaps"]["decided"]["before"]
    # Of a file that was corrected too, nothing can be said of swaps alone.
    alone = not best["correction"]["kept"] and "left over" not in str(best["notes"])
    assert (best["swaps"]["reported"] is not None) == alone
    assert "Swaps tried" in (home / "out" / "report.html").read_text()


def test_what_was_kept_is_what_lies_there(home: Path, best: dict[str, Any]) -> None:
    state = list(json.loads((home / "out" / "swaps.json").read_text()).values())[-1]
    optimized = home / "out" / "tiny-optimized.gguf"
    assert state["encodings"].items() <= types(optimized).items()
    # Corrected values are named in the file, in what is left for that.
    spare = 0 if best["correction"]["kept"] else adapter_module.GGUFAdapter.tuning_bytes
    assert optimized.stat().st_size + spare <= best["budget"]
    left = [
        p.name
        for p in (home / "out").iterdir()
        if p.name.startswith(".") and not p.name.startswith(".kanna")
    ]
    assert left == [], "nothing of the trials stays"
    kanna.convert(
        home / "tiny",
        home / "again.gguf",
        plan=best["plan"],
        statistics=best["statistics"],
        threads=2,
    )
    assert differences(home / "again.gguf", optimized) == []


def test_a_second_run_tries_nothing_again(
    home: Path, best: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        adapter_module, "rewrite", lambda *_, **__: pytest.fail("a trial was made again")
    )
    monkeypatch.setattr(
        correction, "CorrectionPass", lambda *_, **__: pytest.fail("values were chosen again")
    )
    monkeypatch.setattr(
        distillation, "Student", lambda *_, **__: pytest.fail("it was taught again")
    )
    stale = [home / "out" / ".judge-killed", home / "out" / ".swaps-tiny-optimized.gguf"]
    stale[0].mkdir()  # what a run leaves that was killed
    stale[1].write_bytes(b"half a file")
    again = optimize(home, "out")
    assert not any(path.exists() for path in stale)
    for stage in ("swaps", "correction", "tuning"):
        assert again[stage] == best[stage]
    assert not [p.name for p in (home / "out").glob("*-bytes.gguf")]
    assert again["kl_mean"] == best["kl_mean"]


def test_probes_keep_one_file_and_go_on_kind_by_kind(
    home: Path, best: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kanna.calibration import statistics

    source, stats = kanna.open_source(home / "tiny"), Path(best["statistics"])
    model = families.load_model(source)
    costs = measure.measure(
        model,
        statistics.read(stats),
        home / "out" / "measure.json",
        threads=1,
        progress=Stops("", 0),
    )
    before = json.loads((home / "out" / "probe.json").read_text())
    cut = before | {
        "kinds": {k: v for k, v in before["kinds"].items() if k not in ("attn_k", "attn_v")}
    }
    (tmp_path / "probe.json").write_text(json.dumps(cut))
    made, inner = list[list[str]](), adapter_module.rewrite

    def rewrite(*given: Any, **named: Any) -> Any:
        found = inner(*given, **named)
        made.append(sorted(p.name for p in tmp_path.rglob("*.gguf")))
        return found

    monkeypatch.setattr(adapter_module, "rewrite", rewrite)
    adapter = adapter_module.GGUFAdapter(workspace_of(source, tmp_path, stats))
    probe.probe(adapter.prober(costs), costs, tmp_path / "probe.json", Stops("", 0))
    assert made == [["kind.gguf"]] * 2, "only what was missing, one file at most"
    after = json.loads((tmp_path / "probe.json").read_text())
    assert {k: pytest.approx(v) for k, v in before["kinds"].items()} == after["kinds"]
    assert [p.name for p in tmp_path.iterdir()] == ["probe.json"]


class Stops:
    """Progress that is interrupted when a stage has advanced so often."""

    def __init__(self, stage: str, when: int) -> None:
        self.wanted, self.when, self.stage, self.count = stage, when, "", 0

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        self.stage = stage

    def advance(self, amount: int, detail: str = "") -> None:
        self.count += self.stage == self.wanted and amount > 0
        if self.stage == self.wanted and self.count == self.when:
            raise KeyboardInterrupt

    def finish(self) -> None:
        pass


@pytest.mark.parametrize(("stage", "when"), [("swaps", 2), ("distill", 12)])
def test_interrupted_it_keeps_the_best_and_goes_on(
    home: Path, best: dict[str, Any], stage: str, when: int
) -> None:
    out = home / f"stopped-{stage}"
    with pytest.raises(KeyboardInterrupt):
        optimize(home, out.name, Stops(stage, when))
    state = list(json.loads((out / "swaps.json").read_text()).values())[-1]
    assert state["encodings"].items() <= types(out / "tiny-optimized.gguf").items()
    assert not list(out.glob(".swaps-*")) and not list(out.glob("*.partial"))
    tried = len(state["tries"])
    assert tried == (2 if stage == "swaps" else TRIES)
    done = optimize(home, out.name)
    assert done["swaps"] == best["swaps"], "as if it had never been interrupted"
    assert done["tuning"]["watched"] == pytest.approx(best["tuning"]["watched"], rel=1e-3)
    names = [folder / "tiny-optimized.gguf" for folder in (out, home / "out")]
    assert differences(*names) == []


def test_a_correction_is_decided_by_every_kind_of_text(home: Path, best: dict[str, Any]) -> None:
    told = best["correction"]
    assert told["tensors"] > 0 and told["before"] > 0 and told["after"] > 0
    assert [kind["kind"] for kind in told["kinds"]] == ["text.txt", EVALUATED]
    first = told["kinds"][0]
    gains = first["change"] < -first["error"] and first["after"] < first["before"]
    assert told["kept"] == (gains and not told["worse"])
    plan = load(Path(best["plan"]))
    assert plan.tuning == (correction.FILE if told["kept"] else None)
    assert "Values chosen again" in (home / "out" / "report.html").read_text()
    assert "correct" in best["seconds"]


def test_tuning_is_decided_in_the_runtime(home: Path, best: dict[str, Any]) -> None:
    told = best["tuning"]
    assert len(told["trained"]) == 2 and len(told["watched"]) == 3 and told["parameters"] > 1000
    assert not told["kept"] or (told["after"] < told["before"] and not told["worse"])
    tuned = home / "out" / "tiny-tuned.gguf"
    rows = {r["name"]: r for r in json.loads((home / "out" / "report.json").read_text())["rows"]}
    assert tuned.exists() == told["kept"] == ("tuned" in rows)
    if told["kept"]:
        assert tuned.stat().st_size <= best["budget"] and rows["tuned"]["gate"] == "proved"
        kanna.convert(
            home / "tiny",
            home / "tuned.gguf",
            plan=home / "out" / "tuned.json",
            statistics=best["statistics"],
        )
        assert differences(home / "tuned.gguf", tuned) == []


@pytest.mark.parametrize("recipe", ["llama", "qwen3", "gemma3"])
def test_what_was_learned_is_what_the_file_holds(recipe: str, tmp_path: Path) -> None:
    """With any factors and offsets, the student computes what the tuned file computes.

    Rows, blocks and norms fit.
    """
    from safetensors.numpy import save_file

    from kanna.optimization.tuning.student import Student

    tiny_models.make(recipe, tmp_path / "tiny")
    source = kanna.open_source(tmp_path / "tiny")
    model = families.load_model(source)
    (tmp_path / "text.txt").write_text(tiny_models.TEXT * 20, encoding="utf-8")
    kanna.calibrate(
        tmp_path / "tiny", tmp_path / "stats", calibration=[tmp_path / "text.txt"], tokens=512
    )
    plan = Plan(
        name="p",
        encoding="q4_0",
        rules=[RuleModel(pattern="ffn_down", encoding="q6_k", method="gptq")],
    )
    plan.save(tmp_path / "plan.json")
    kanna.convert(
        source,
        tmp_path / "p.gguf",
        plan=tmp_path / "plan.json",
        statistics=tmp_path / "stats",
        threads=1,
    )
    held, work = families.load_model(kanna.open_source(tmp_path / "p.gguf")), tmp_path / "work"
    blocks = learnable.matrices(held)
    assert set(blocks) == {n for n, t in model.tensors.items() if len(t.shape) == 2}
    student = Student(held, "cpu", work)
    norms = {n for n, t in model.tensors.items() if "norm" in n}
    assert norms and set(student.values.of) == set(blocks) | norms
    torch.manual_seed(0)
    with torch.no_grad():
        for name in student.values.of:
            student.values.leaf(name, "cpu").normal_(std=0.05)
    values = student.values
    found = {n + tunings.SCALE: v.astype(np.float16) for n, v in values.scales()} | dict(
        values.vectors()
    )
    save_file(found, tmp_path / "t.safetensors")
    plan.model_copy(update={"tuning": "t.safetensors"}).save(tmp_path / "tuned.json")
    rewrite.rewrite(
        workspace_of(source, tmp_path, tmp_path / "stats"),
        tmp_path / "tuned.json",
        tmp_path / "t.gguf",
        before=[tmp_path / "p.gguf"],
    )
    written = families.load_model(kanna.open_source(tmp_path / "t.gguf"))
    ids = np.arange(3, 67)[None]
    want = student.hidden(ids).numpy()
    got = Student(written, "cpu", work, learns=False).hidden(ids).numpy()
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
    before = Student(held, "cpu", work, learns=False).hidden(ids).numpy()
    assert np.abs(before - want).max() > 0.1 * np.abs(want).max(), "it did move"


def test_only_what_changed_is_encoded_again(home: Path, tmp_path: Path) -> None:
    source = kanna.open_source(home / "tiny")
    kanna.calibrate(home / "tiny", tmp_path / "stats", calibration=[home / "text.txt"], tokens=1024)
    plans = [tmp_path / "a" / "plan.json", tmp_path / "b" / "plan.json"]
    for path, encoding in zip(plans, ("q4_k", "q6_k"), strict=True):
        path.parent.mkdir()
        rule = RuleModel(pattern="attn_v", encoding=encoding, method="gptq")
        Plan(name="optimized", encoding="q4_0", rules=[rule]).save(path)
    kanna.convert(
        source, tmp_path / "a.gguf", plan=plans[0], statistics=tmp_path / "stats", threads=1
    )
    kanna.convert(
        source, tmp_path / "b.gguf", plan=plans[1], statistics=tmp_path / "stats", threads=1
    )
    fresh = rewrite.rewrite(
        workspace_of(source, tmp_path, tmp_path / "stats"),
        plans[1],
        tmp_path / "c.gguf",
        before=[tmp_path / "a.gguf"],
    )
    assert fresh == [f"blk.{i}.attn_v.weight" for i in range(3)]
    assert differences(tmp_path / "c.gguf", tmp_path / "b.gguf") == []


def test_moves_give_a_group_more_bytes_and_others_fewer() -> None:
    names = [f"blk.{i}.{kind}.weight" for i in range(12) for kind in ("ffn_down", "attn_q")]
    choices = [
        Choice(
            name=n,
            options=[
                Option(encoding=e, nbytes=b, cost=2.0 ** -(b / 8) * (1 + 0.01 * k))
                for e, b in (("q2_k", 8), ("q4_k", 16), ("q6_k", 24))
            ],
        )
        for k, n in enumerate(names)
    ]
    every = moves.groups(names)
    assert {"ffn_down", "attn_q", "few bits", "layers 0 to 1", "layers 10 to 11"} <= {
        g.name for g in every
    }
    assert {f for _, f in moves.first_moves(every)} == {moves.FACTOR, 1 / moves.FACTOR}
    bytes_of = lambda found, of: sum(o.nbytes for n, o in found.items() if of in n)  # noqa: E731
    budget = 16 * len(names)
    before = allocate(choices, budget)
    after = allocate(moves.moved(choices, every, {"ffn_down": 8.0}), budget)
    assert bytes_of(after, "ffn_down") > bytes_of(before, "ffn_down")
    assert bytes_of(after, "attn_q") < bytes_of(before, "attn_q") and bytes_of(after, "") <= budget
    fewer = moves.moved(choices, every, {"few bits": 8.0})
    assert [o.cost for o in fewer[0].options] == pytest.approx(
        [8 * choices[0].options[0].cost] + [o.cost for o in choices[0].options[1:]]
    )


def test_a_trial_is_left_early_only_when_windows_agree() -> None:
    best = np.full(8, 0.1)
    assert not local_search._worse(best[:3] + 0.1, best), "too few windows say nothing"
    assert local_search._worse(best[:5] + np.array([0.1, 0.11, 0.09, 0.1, 0.1]), best)
    assert not local_search._worse(best[:5] + np.array([0.3, -0.3, 0.2, -0.1, 0.1]), best)
    assert not local_search._worse(best[:5] - 0.05, best)
    order = local_search._alternating([("a", [1]), ("a", [2]), ("b", [3]), ("c", [4]), ("b", [5])])
    assert [ids[0] for _, ids in order] == [1, 3, 4, 2, 5]


@pytest.mark.parametrize("name", [n for n in encodings.names() if encodings.get(n).factors])
def test_everything_in_a_block_is_proportional_to_its_fields(name: str) -> None:
    encoding = encodings.get(name)
    rng, blocks = np.random.default_rng(0), 1024 // encoding.block
    data = rng.integers(0, 256, (3, blocks, encoding.block_bytes), np.uint8)
    for at in encoding.factors:  # any codes will do, but no scales that are infinite
        data[..., at : at + 2] = (
            rng.uniform(0.5, 2, (3, blocks, 1)).astype(np.float16).view(np.uint8)
        )
    data = data.reshape(3, -1)
    scale = np.where(np.arange(3 * blocks).reshape(3, blocks) % 2, 1.0, -0.5).astype(np.float16)
    moved = tunings.scaled(encoding, data, 1024, scale)
    times = np.repeat(1 + scale.astype(np.float32), encoding.block, axis=1)
    assert np.array_equal(encoding.decode(moved, 1024), encoding.decode(data, 1024) * times), (
        "powers of two are exact"
    )
    assert np.array_equal(tunings.scaled(encoding, data, 1024, np.zeros((3, 1), np.float16)), data)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "rows": ({"blk.0.attn_q.weight.scale": np.zeros((5, 1), np.float16)}, "another model"),
    "unknown": ({"blk.9.attn_q.weight.scale": np.zeros((5, 1), np.float16)}, "another model"),
    "blocks": (
        {"blk.0.attn_q.weight.scale": np.zeros((256, 3), np.float16)},
        "3 factors in each row",
    ),
    "vector": ({"output_norm.weight": np.zeros(7, np.float32)}, "another model"),
    "NaN": ({"output_norm.weight": np.full(256, np.nan, np.float32)}, "no numbers"),
    "flat": ({"blk.0.attn_q.weight.scale": np.zeros(256, np.float16)}, "not in rows"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_tuning_of_something_else_is_refused(what: str, home: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    arrays, said = BROKEN[what]
    save_file(arrays, tmp_path / "t.safetensors")
    Plan(encoding="q4_0", tuning="t.safetensors").save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match=said):
        kanna.convert(home / "tiny", plan=tmp_path / "plan.json", dry_run=True)


def test_a_tuning_lies_beside_its_plan(home: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"encoding": "q4_0", "tuning": "absent.safetensors"}')
    with pytest.raises(PlanError, match="absent.safetensors does not exist"):
        kanna.convert(home / "tiny", plan=tmp_path / "plan.json", dry_run=True)
    for name in ("../t.safetensors", "/etc/passwd", "..", "", "a\\\\b"):
        (tmp_path / "plan.json").write_text(json.dumps({"encoding": "q4_0", "tuning": name}))
        with pytest.raises(PlanError, match="beside the plan"):
            load(tmp_path / "plan.json")
    (tmp_path / "t.safetensors").write_bytes(b"nonsense")
    (tmp_path / "plan.json").write_text('{"encoding": "q4_0", "tuning": "t.safetensors"}')
    with pytest.raises(PlanError, match="cannot be read"):
        kanna.convert(home / "tiny", plan=tmp_path / "plan.json", dry_run=True)


def test_columns_are_what_blocks_are_counted_in(home: Path, best: dict[str, Any]) -> None:
    optimized = gguf.read(home / "out" / "tiny-optimized.gguf")
    artefact = families.load_model(kanna.open_source(home / "out" / "tiny-optimized.gguf"))
    blocks = learnable.matrices(artefact)
    for name, count in blocks.items():
        tensor = optimized.tensors[name]
        assert count * encodings.get(tensor.dtype).block == columns(tensor)
