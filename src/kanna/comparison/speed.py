"""Times the artefacts of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from kanna.benchmark import PATIENCE, BenchRow, bench
from kanna.benchmark.load import remark
from kanna.comparison.context import ComparisonContext
from kanna.comparison.rows import Row
from kanna.errors import MissingError

PROMPT = 512
"""Tokens of the prompt in a speed test."""
REPEAT = 3
"""Rounds of the speed test, unless the user says otherwise."""
SPEED = ("load_s", "peak_bytes", "ttft_s", "prompt_tps", "gen_tps", "joules_per_token")
"""Figures of a speed test that a row has."""


def measure_speed(rows: Sequence[Row], context: ComparisonContext, *, repeat: int) -> list[str]:
    """Bench every artefact, and compare each with the baseline; returns notes."""
    able = [r for r in rows if r.path and r.gate != "failed"]
    try:
        results = bench(
            [r.path or "" for r in able],
            prompt_tokens=PROMPT,
            repeat=repeat,
            threads=context.threads,
            progress=context.progress,
        )
    except MissingError as error:
        return [f"speed was not measured: {error.found}"]
    for row, result in zip(able, results, strict=True):
        data = result.to_dict()
        for name in SPEED:
            setattr(row, name, data[name])
        row.speed_spread, row.rounds, row.busy = dict(result.spread), result.repeat, result.busy
    _compare_with_baseline(able, results)
    return _notes(able, results, repeat)


def _notes(rows: Sequence[Row], results: Sequence[BenchRow], repeat: int) -> list[str]:
    busy = remark(results[0].busy) if results else None
    notes: list[str] = [busy] if busy else []
    once = [row.name for row, result in zip(rows, results, strict=True) if result.repeat < repeat]
    if once:
        notes.append(
            f"speed was measured once, for it takes longer than {PATIENCE:.0f} s: {', '.join(once)}"
        )
    if results and results[0].prompt_tokens < PROMPT:
        notes.append(
            f"prompts of the speed test have {results[0].prompt_tokens} tokens: the model's "
            "context is short"
        )
    return notes


def _compare_with_baseline(rows: Sequence[Row], results: Sequence[BenchRow]) -> None:
    """Give rows their ratios: of each round to the baseline's, which ran shortly before or after.

    What slows the machine for a while slows both, and does not change their ratio.
    """
    at = next((i for i, r in enumerate(rows) if r.role == "baseline"), None)
    if at is None:
        return
    base = rows[at]
    reference = results[at].samples.get("gen_tps") or []
    for row, result in zip(rows, results, strict=True):
        own = result.samples.get("gen_tps") or []
        ratios = [a / b for a, b in zip(own, reference, strict=False) if b > 0]
        if ratios:
            row.speedup, row.speedup_spread = median(ratios), (min(ratios), max(ratios))
        if row.peak_bytes and base.peak_bytes:
            row.less_memory = 1 - row.peak_bytes / base.peak_bytes
