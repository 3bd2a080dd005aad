"""Correction of an artefact: written beside it, scored in the runtime, and kept where it is closer.

`correction.safetensors` beside the plan holds the new rows, and the plan names it as its tuning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna import __version__, families
from kanna._util.atomic import write_json
from kanna._util.digest import sha256
from kanna.calibration import statistics
from kanna.calibration.windows import CalibrationWindows
from kanna.evaluation.stats import half_width
from kanna.formats import safetensors
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.correction.layers import CorrectionPass
from kanna.optimization.correction.products import DAMPING, SHARE
from kanna.optimization.kl_scorer import SURE, HeldOutWindows
from kanna.plan import load
from kanna.plan.tuning import ROWS
from kanna.sources import open_source

FILE, STATE, WORK = "correction.safetensors", "correction.json", "correction-work"
TRIAL = ".correction-"
TOKENS = 16_384
"""Tokens that both networks run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionResult:
    """What a correction came to.

    Attributes:
        before: Mean KL divergence of the artefact on the text that decided, in nats.
        after: The same of the corrected artefact.
        half: Half width of the 95 % interval of the difference.
        kept: Whether the divergence fell, so that the corrected artefact took its place.
        tensors: Matrices whose values were chosen again.
    """

    before: float
    after: float
    half: float | None
    kept: bool
    tensors: int


def correct(
    adapter: Adapter,
    plan: Path,
    artefact: Path,
    windows: CalibrationWindows,
    held: HeldOutWindows,
) -> CorrectionResult | None:
    """Correct the artefact of `plan`; None where there is nothing to correct.

    When it helps, the artefact and its plan are replaced. An earlier result for the same artefact
    is used again; an interrupted pass goes on with the layer it was at.

    Args:
        adapter: The format, with a scorer, for the calibrated source.
        plan: A plan file.
        artefact: What it made.
        windows: The calibration text.
        held: Its trial windows decide.
    """
    file, state = plan.with_name(FILE), plan.with_name(STATE)
    ids = _text(windows)
    key = _key(adapter, artefact, ids, held)
    result = _earlier(state, file, key)
    if result is not None and not result.kept:
        return result
    if result is None and not _rows(adapter, plan, artefact, ids, key):
        return None
    trial = artefact.with_name(f"{TRIAL}{artefact.name}")
    trial_plan = plan.with_name(f"{TRIAL}plan") / plan.name  # its name is in the metadata
    trial_plan.parent.mkdir(exist_ok=True)
    try:
        shutil.copyfile(file, trial_plan.with_name(FILE))
        load(plan).model_copy(update={"tuning": FILE}).save(trial_plan)
        adapter.rewrite(trial_plan, trial, artefact)
        if result is None:
            tuning = load(trial_plan).tuned()
            result = _scored(adapter, artefact, trial, held, len(tuning.rows) if tuning else 0)
            write_json(state, {"key": key, "result": asdict(result)})
        if result.kept:
            trial.replace(artefact)
            trial_plan.replace(plan)
        else:
            file.unlink(missing_ok=True)
    finally:
        trial.unlink(missing_ok=True)
        shutil.rmtree(trial_plan.parent, ignore_errors=True)
    return result


def _text(windows: CalibrationWindows) -> Any:
    """Windows of the statistics, evenly spaced, of TOKENS tokens at most."""
    ids = windows.ids[~windows.held]
    count = min(len(ids), max(1, TOKENS // windows.ids.shape[1]))
    return ids[np.unique(np.linspace(0, len(ids) - 1, count).astype(int))] if len(ids) else ids


def _rows(adapter: Adapter, plan: Path, artefact: Path, ids: Any, key: str) -> bool:
    """Write the file of new rows; False where there are none."""
    if not len(ids):
        return False
    workspace = adapter.workspace
    held = CorrectionPass(
        workspace.model,
        families.load_model(open_source(artefact)),
        statistics.read(workspace.calibrated),
        ids,
        plan.with_name(WORK),
        key,
        device=workspace.context.device,
        threads=workspace.context.workers,
    )
    rows = held.run(workspace.context.progress)
    if rows:
        safetensors.save(plan.with_name(FILE), {name + ROWS: data for name, data in rows.items()})
    held.clear()
    return bool(rows)


def _scored(
    adapter: Adapter, artefact: Path, trial: Path, held: HeldOutWindows, tensors: int
) -> CorrectionResult:
    scorer = adapter.scorer(held.trial)
    assert scorer is not None, "the format has no scorer"
    with scorer:
        before, after = scorer.kl(artefact), scorer.kl(trial)
    half = half_width(after - before)
    return CorrectionResult(
        before=float(before.mean()),
        after=float(after.mean()),
        half=half,
        kept=half is not None and float((after - before).mean()) < -SURE * half,
        tensors=tensors,
    )


def _key(adapter: Adapter, artefact: Path, ids: Any, held: HeldOutWindows) -> str:
    """A hash of everything the result depends on."""
    known = [
        __version__,
        adapter.runtime_version,
        sha256(artefact),
        statistics.read(adapter.workspace.calibrated).sha256,
        SHARE,
        DAMPING,
        ids.tolist(),
        held.trial,
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _earlier(state: Path, file: Path, key: str) -> CorrectionResult | None:
    """The result of an earlier run of the same, when all that it left is there."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads(state.read_text(encoding="utf-8"))
        result = CorrectionResult(**saved["result"])
        return result if saved["key"] == key and (file.is_file() or not result.kept) else None
    return None
