"""A corrected file takes the place of the other, or leaves nothing behind."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from helpers.same_bytes import differences

import kanna
from kanna import families
from kanna.optimization.acceptance import EVALUATED
from kanna.optimization.adapters.gguf import GGUFAdapter
from kanna.optimization.context import Context, Workspace
from kanna.optimization.correction import correction
from kanna.optimization.correction.deciding_text import deciding_windows, held_out_windows
from kanna.optimization.correction.pass_text import PassText
from kanna.optimization.correction.rounding import LayerRounding
from kanna.optimization.kl_scorer import F64, HeldOutWindows, Window
from kanna.plan import load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

KINDS = ("prose", "code", EVALUATED)
SOURCE: dict[str, float] = dict.fromkeys(KINDS, 1.0)
DECIDING: list[Window] = [(kind, [1, 2]) for kind in KINDS for _ in range(4)]


class _Divergences:
    """Stands for the runtime: so many nats on each window, of one trial after the other."""

    def __init__(self, *by_kind: dict[str, float]) -> None:
        self._by_kind, self.scored = by_kind, list[str]()

    def __enter__(self) -> _Divergences:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def kl(self, path: Path) -> F64:
        self.scored.append(path.name)
        trials = sum(name.startswith(correction.TRIAL) for name in self.scored)
        nats = self._by_kind[min(trials, len(self._by_kind)) - 1] if trials else SOURCE
        return np.array([nats[kind] + i % 4 / 100 for i, (kind, _) in enumerate(DECIDING)])


@pytest.fixture
def subject(made: Any, tmp_path: Path) -> tuple[GGUFAdapter, Path, Path]:
    source = kanna.open_source(made.home / "tiny")
    adapter = GGUFAdapter(
        Workspace(
            source=source,
            model=families.load_model(source),
            folder=tmp_path,
            context=Context(threads=1, device="cpu"),
            statistics=made.home / "stats",
        )
    )
    for name in ("plan.json", "plan.gguf"):
        shutil.copyfile(made.home / name, tmp_path / name)
    return adapter, tmp_path / "plan.json", tmp_path / "plan.gguf"


def corrected(
    made: Any, subject: Any, monkeypatch: pytest.MonkeyPatch, *by_kind: dict[str, float]
) -> tuple[correction.CorrectionResult, list[str]]:
    adapter, plan, artefact = subject
    scores = _Divergences(*by_kind)
    monkeypatch.setattr(adapter, "scorer", lambda _: scores)
    result = correction.correct(adapter, plan, artefact, made.windows, DECIDING)
    assert result is not None
    return result, scores.scored


def test_what_is_closer_takes_its_place(
    made: Any, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kind = {"prose": 0.5, "code": 0.4, EVALUATED: 1.0}
    _, plan, artefact = subject
    size = artefact.stat().st_size
    result, scored = corrected(made, subject, monkeypatch, by_kind)
    assert result.kept and result.tensors > 10 and not result.worse
    assert scored[0] == "plan.gguf" and set(scored[1:]) == {f"{correction.TRIAL}plan.gguf"}
    assert 0 < artefact.stat().st_size - size <= GGUFAdapter.tuning_bytes
    assert load(plan).tuning == correction.FILE
    home = made.home
    kanna.convert(
        home / "tiny",
        plan.with_name("again.gguf"),
        plan=plan,
        statistics=home / "stats",
        device="cpu",
    )
    assert differences(plan.with_name("again.gguf"), artefact) == []
    # The same file again is corrected by what was kept, without a pass and without the runtime.
    after = artefact.read_bytes()
    for path in (plan, artefact):
        shutil.copyfile(home / path.name, path)
    monkeypatch.setattr(correction, "CorrectionPass", lambda *_, **__: pytest.fail("a pass"))
    again, scored = corrected(made, subject, monkeypatch, by_kind)
    assert again == result and not scored and artefact.read_bytes() == after
    # So is the plan by itself, for the file that is there.
    named = plan.read_bytes()
    shutil.copyfile(home / plan.name, plan)
    correction.take_up(subject[0], plan, made.windows, DECIDING[:-1])
    assert load(plan).tuning is None, "other text may decide otherwise"
    correction.take_up(subject[0], plan, made.windows, DECIDING)
    assert plan.read_bytes() == named
    again, scored = corrected(made, subject, monkeypatch, by_kind)
    assert again == result and not scored and artefact.read_bytes() == after


def test_one_kind_of_text_that_loses_leaves_all_as_it_was(
    made: Any, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kind = {"prose": 0.1, "code": 0.1, EVALUATED: 1.1}
    _, plan, artefact = subject
    result, _ = corrected(made, subject, monkeypatch, by_kind)
    assert not result.kept and result.worse == [EVALUATED] and EVALUATED in result.sentence()
    assert result.after < result.before, "the mean fell"
    for path in (plan, artefact):
        assert path.read_bytes() == (made.home / path.name).read_bytes()
    left = {path.name for path in plan.parent.iterdir()} - {"plan.json", "plan.gguf"}
    assert left == {correction.STATE}
    told = json.loads(plan.with_name(correction.STATE).read_text())["result"]
    assert [kind["kind"] for kind in told["kinds"]] == list(KINDS)


def test_the_closer_file_wins_with_learned_codes_or_without(
    made: Any, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, plan, artefact = subject
    text = PassText(ids=made.windows.ids, summed=2, learned=3)
    monkeypatch.setattr(PassText, "of", Mock(return_value=text))
    monkeypatch.setattr(LayerRounding, "error", Mock(side_effect=itertools.count(0, -1)))
    run = correction.run_pass(adapter, plan, artefact, made.windows, "key")
    assert run is not None and run.learned == 2
    assert any((run.changed[name] != rows).any() for name, rows in run.corrected.items())
    monkeypatch.setattr(correction, "run_pass", Mock(return_value=run))
    near, far, loses = SOURCE | {"prose": 0.3}, SOURCE | {"prose": 0.6}, SOURCE | {"code": 1.1}
    for without, learned, wins in (
        (far, near, run.changed),
        (near, far, run.corrected),
        (far, loses | {"prose": 0.1}, run.corrected),  # a lower mean is not all it takes
    ):
        for path in (plan, artefact):
            shutil.copyfile(made.home / path.name, path)
        plan.with_name(correction.STATE).unlink(missing_ok=True)
        result, scored = corrected(made, subject, monkeypatch, without, learned)
        assert result.kept and len(scored) == 3
        assert bool(result.learned) == (wins is run.changed)
        assert result.runner_up is not None and f"{result.runner_up:.5f} nats" in result.sentence()
        tensors = families.load_model(kanna.open_source(artefact)).tensors
        for name, rows in wins.items():
            stored = tensors[name].raw(0, len(rows))
            assert stored is not None and np.array_equal(stored, rows)


def test_the_text_that_decides(made: Any, subject: Any) -> None:
    adapter, _, _ = subject
    window = [("prose", [1, 2, 3])] * 4
    held = HeldOutWindows(trial=window, proof=window, fitted=False)
    source, text = adapter.workspace, made.home / "text.txt"
    deciding = deciding_windows(source, held, text, 0)
    assert deciding[:4] == held_out_windows(held)
    assert {kind for kind, _ in deciding[4:]} == {EVALUATED}
    assert all(len(ids) == len(deciding[4][1]) for _, ids in deciding[4:])
    assert not source.context.notes
    fitted = HeldOutWindows(trial=window, proof=window, fitted=True)
    short = made.home / "short.txt"
    short.write_text("a few words", encoding="utf-8")
    for wanted, said in (
        ((fitted, text, 0), "left over"),
        ((held, text, 1 << 60), "memory"),
        ((held, short, 0), "tokens"),
    ):
        assert deciding_windows(source, *wanted) == []
        assert said in source.context.notes[-1]
