"""Correction of an artefact: written beside it, scored in the runtime, and kept or not.

`correction.safetensors` beside the plan holds the new rows, and the plan names it as its tuning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import __version__, families
from kanna._util.atomic import write_json
from kanna._util.digest import sha256
from kanna.calibration import statistics
from kanna.calibration.devices import CPU, serves
from kanna.calibration.windows import CalibrationWindows
from kanna.formats import safetensors
from kanna.model import U8
from kanna.optimization.acceptance import Verdict, judge
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.correction import rounding
from kanna.optimization.correction.layers import CorrectionPass
from kanna.optimization.correction.pass_text import PassText
from kanna.optimization.correction.products import DAMPING, SHARE
from kanna.optimization.kl_scorer import Window
from kanna.plan import load
from kanna.plan.tuning import ROWS
from kanna.sources import open_source

FILE, STATE, WORK = "correction.safetensors", "correction.json", "correction-work"
TRIAL = ".correction-"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionResult:
    """What a correction came to.

    Attributes:
        before: Mean KL divergence of the artefact on held-out calibration text, in nats.
        after: The same of the corrected artefact.
        half: Half width of the 95 % interval of the difference.
        kinds: The same of every kind of text, see KindOfText.
        worse: Names of those that lose, for which the corrected artefact is not kept.
        kept: Whether it took the place of the other.
        tensors: Matrices whose values were chosen again.
        learned: Layers whose codes were learned by what the layer gives; 0 where the file without
            them is closer.
        runner_up: Mean KL divergence of the farther one of both corrected files: without learned
            codes where `learned`, with them otherwise; None where no layer learned.
        device: Where both networks ran.
        remarks: What was done where the memory of that did not suffice.
    """

    before: float
    after: float
    half: float | None
    kinds: list[dict[str, Any]]
    worse: list[str]
    kept: bool
    tensors: int
    learned: int = 0
    runner_up: float | None = None
    device: str = CPU
    remarks: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def sentence(self) -> str:
        """How far the divergence went, and what came of it."""
        end = "kept" if self.kept else "not kept"
        if self.worse:
            end += f", since {' and '.join(self.worse)} lost"
        codes = f"learned the codes of {self.learned} layers"
        if self.runner_up is not None:
            which = "without" if self.learned else "with"
            codes += f" ({self.runner_up:.5f} nats {which} learned codes)"
        return (
            f"chose the values of {self.tensors} matrices again, {codes}: "
            f"{self.before:.5f} → {self.after:.5f} nats, {end}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """What correction.json keeps: SHA-256 of the plan, of its artefact and of the corrected one."""

    plan: str
    before: str
    after: str
    result: CorrectionResult


def correct(
    adapter: Adapter,
    plan: Path,
    artefact: Path,
    windows: CalibrationWindows,
    deciding: Sequence[Window],
) -> CorrectionResult | None:
    """Correct the artefact of `plan`; None where there is nothing to correct.

    Where acceptance.py has it, the artefact and its plan are replaced: by the closer file of those
    with learned codes and without. An earlier result for the same artefact is used again; an
    interrupted pass goes on with the layer it was at.

    Args:
        adapter: The format, with a scorer, for the calibrated source.
        plan: A plan file.
        artefact: What it made.
        windows: The calibration text.
        deciding: Windows of every kind of text, that nothing was fitted to.
    """
    key, before = _key(adapter, windows, deciding), sha256(artefact)
    saved = _saved(plan, key, adapter)
    result = saved.result if saved and before in (saved.before, saved.after) else None
    if result is not None and (not result.kept or saved and before == saved.after):
        return result
    trial = _Trial(adapter, plan, artefact)
    try:
        if result is not None:
            trial.write()
        else:
            made = run_pass(adapter, plan, artefact, windows, key + before)
            if made is None:
                return None
            result = _closest(trial, made, deciding)
            outcome = _Saved(
                plan=sha256(plan), before=before, after=sha256(trial.artefact), result=result
            )
            write_json(plan.with_name(STATE), {"key": key, **asdict(outcome)})
        if result.kept:
            trial.replace()
        else:
            plan.with_name(FILE).unlink(missing_ok=True)
    finally:
        trial.remove()
    return result


def take_up(
    adapter: Adapter, plan: Path, windows: CalibrationWindows, deciding: Sequence[Window]
) -> None:
    """Let a plan name the rows that an earlier run chose for it and kept; its file stays then.

    Args:
        adapter: The format, for the calibrated source.
        plan: A plan file that nothing changes any more.
        windows: The calibration text.
        deciding: Windows of every kind of text, that nothing was fitted to.
    """
    saved = _saved(plan, _key(adapter, windows, deciding), adapter)
    if saved is not None and saved.result.kept and saved.plan == sha256(plan):
        load(plan).model_copy(update={"tuning": FILE}).save(plan)


class _Trial:
    """A corrected artefact and its plan, beside those that they may take the place of."""

    def __init__(self, adapter: Adapter, plan: Path, artefact: Path) -> None:
        self.adapter, self._plan, self.before = adapter, plan, artefact
        self.artefact = artefact.with_name(f"{TRIAL}{artefact.name}")
        self._trial_plan = plan.with_name(f"{TRIAL}plan") / plan.name  # its name is in the metadata

    def write(self, rows: Mapping[str, U8] | None = None) -> None:
        """Write both, of these rows by tensor; None: of those of an earlier run."""
        file = self._plan.with_name(FILE)
        if rows is not None:
            safetensors.save(file, {name + ROWS: data for name, data in rows.items()})
        self._trial_plan.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, self._trial_plan.with_name(FILE))
        load(self._plan).model_copy(update={"tuning": FILE}).save(self._trial_plan)
        self.adapter.rewrite(self._trial_plan, self.artefact, self.before)

    def replace(self) -> None:
        """Let them take the place of the others."""
        self.artefact.replace(self.before)
        self._trial_plan.replace(self._plan)

    def remove(self) -> None:
        """Leave nothing of them."""
        self.artefact.unlink(missing_ok=True)
        shutil.rmtree(self._trial_plan.parent, ignore_errors=True)


def run_pass(
    adapter: Adapter, plan: Path, artefact: Path, windows: CalibrationWindows, key: str
) -> CorrectionPass | None:
    """The pass over both networks, which has rows; None where there are none."""
    text = PassText.of(windows)
    if not text.learned:
        return None
    workspace = adapter.workspace
    held = CorrectionPass(
        workspace.model,
        families.load_model(open_source(artefact)),
        statistics.read(workspace.calibrated),
        text,
        plan.with_name(WORK),
        key,
        device=workspace.context.device,
        threads=workspace.context.workers,
    )
    return held if held.run(workspace.context.progress) else None


def _closest(trial: _Trial, made: CorrectionPass, deciding: Sequence[Window]) -> CorrectionResult:
    """Score both files of a pass, with learned codes last; the one that wins is written then."""
    scorer = trial.adapter.scorer(deciding)
    assert scorer is not None, "the format has no scorer"
    versions = [made.corrected, made.changed] if made.learned else [made.changed]
    with scorer:
        before, verdicts = scorer.kl(trial.before), list[Verdict]()
        for rows in versions:
            trial.write(rows)
            verdicts.append(judge(deciding, before, scorer.kl(trial.artefact)))
    best = max(range(len(verdicts)), key=lambda n: (verdicts[n].kept, -verdicts[n].mean.after))
    if best + 1 < len(versions):
        trial.write(versions[best])
    made.clear()
    verdict = verdicts[best]
    return CorrectionResult(
        before=verdict.mean.before,
        after=verdict.mean.after,
        half=verdict.mean.half,
        kinds=[asdict(one) for one in verdict.kinds],
        worse=verdict.worse,
        kept=verdict.kept,
        tensors=len(versions[best]),
        learned=made.learned if best else 0,
        runner_up=verdicts[1 - best].mean.after if made.learned else None,
        device=made.device,
        remarks=made.remarks,
    )


def _key(adapter: Adapter, windows: CalibrationWindows, deciding: Sequence[Window]) -> str:
    """A hash of everything the result depends on, beside the artefact."""
    text = PassText.of(windows)
    known = [
        __version__,
        adapter.runtime_version,
        statistics.read(adapter.workspace.calibrated).sha256,
        SHARE,
        DAMPING,
        rounding.SETTINGS,
        asdict(text) | {"ids": text.ids.tolist()},
        list(deciding),
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _saved(plan: Path, key: str, adapter: Adapter) -> _Saved | None:
    """What an earlier run of the same left, when all of it is there."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads(plan.with_name(STATE).read_text(encoding="utf-8"))
        if saved.pop("key") == key:
            result = CorrectionResult(**saved.pop("result"))
            asked = adapter.workspace.context.device
            whole = plan.with_name(FILE).is_file() or not result.kept
            if whole and serves(asked, result.device):
                return _Saved(result=result, **saved)
    return None
