"""A corrected file takes the place of the other, or leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from helpers.same_bytes import differences

import kanna
from kanna import families
from kanna.optimization.adapters.gguf import GGUFAdapter
from kanna.optimization.context import Context, Workspace
from kanna.optimization.correction import correction
from kanna.optimization.correction.acceptance import EVALUATED
from kanna.optimization.correction.deciding_text import deciding_windows, held_out_windows
from kanna.optimization.kl_scorer import F64, HeldOutWindows, Window
from kanna.plan import load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

KINDS = ("prose", "code", EVALUATED)
DECIDING: list[Window] = [(kind, [1, 2]) for kind in KINDS for _ in range(4)]


class _Divergences:
    """Stands for the runtime: so many nats on each window."""

    def __init__(self, by_kind: dict[str, float]) -> None:
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
        trial = path.name.startswith(correction.TRIAL)
        return np.array(
            [
                (self._by_kind[kind] if trial else 1.0) + i % 4 / 100
                for i, (kind, _) in enumerate(DECIDING)
            ]
        )


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
    made: Any, subject: Any, monkeypatch: pytest.MonkeyPatch, by_kind: dict[str, float]
) -> tuple[correction.CorrectionResult, list[str]]:
    adapter, plan, artefact = subject
    scores = _Divergences(by_kind)
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
    assert scored == ["plan.gguf", f"{correction.TRIAL}plan.gguf"]
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
