"""What is kept: closer on average, and worse on no kind of text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanna.optimization.acceptance import EVALUATED, Verdict, judge
from kanna.optimization.correction.deciding_text import WINDOWS, held_out_windows
from kanna.optimization.kl_scorer import EACH, HeldOutWindows, Window

NOISE = np.array([0.9, 1.0, 1.1, 1.05, 0.95, 1.0])


def verdict(ratios: dict[str, float], windows: int = 6) -> Verdict:
    """Of files whose divergence on each kind of text is so many times what it was."""
    ids: list[Window] = [(kind, [1]) for kind in ratios for _ in range(windows)]
    before = np.concatenate([0.1 * NOISE[:windows] for _ in ratios])
    after = np.concatenate([0.1 * ratio * NOISE[:windows][::-1] for ratio in ratios.values()])
    return judge(ids, before, after)


def test_a_lower_mean_is_kept() -> None:
    made = verdict({"prose": 0.5, "code": 0.4, EVALUATED: 0.9})
    assert made.kept and not made.worse
    assert made.mean.windows == 12, "the evaluated text counts by itself alone"
    assert made.mean.after == pytest.approx(0.45 * 0.1)


@pytest.mark.parametrize("loser", ["code", EVALUATED])
def test_one_kind_of_text_that_loses_is_enough(loser: str) -> None:
    made = verdict({"prose": 0.2, "chat": 0.2, "code": 0.2, EVALUATED: 0.2} | {loser: 1.2})
    assert made.mean.gains and not made.kept
    assert made.worse == [loser]


def test_the_evaluated_text_cannot_bring_the_mean_down() -> None:
    made = verdict({"prose": 1.0, "code": 1.0, EVALUATED: 0.1})
    assert not made.kept and not made.worse


def test_what_is_within_chance_neither_gains_nor_loses() -> None:
    made = verdict({"prose": 0.4, "code": 1.01})
    assert made.kept, "a rise that its windows do not agree on"
    assert not verdict({"prose": 0.99, "code": 0.99}).kept


def test_few_windows_borrow_the_spread_of_all() -> None:
    made = verdict({"prose": 0.4, "code": 0.4, "few": 1.001}, windows=3)
    assert made.kinds[0].half is None and made.kept, "a rise within chance"
    made = verdict({"prose": 0.4, "code": 0.4, "few": 1.3}, windows=3)
    assert made.worse == ["few"] and not made.kept


def test_without_a_spread_any_rise_loses() -> None:
    made = verdict({"prose": 0.4, "few": 1.001}, windows=2)
    assert made.kinds[0].error is None
    assert made.worse == ["few"] and not made.kept


def test_a_kind_that_is_far_off_does_not_outweigh_what_is_close() -> None:
    """0.15 nats less of foreign text, and twice as far off where the model is good."""
    ids: list[Window] = [(kind, [1]) for kind in ("languages", "prose") for _ in range(6)]
    before = np.concatenate([0.2 * NOISE, 0.01 * NOISE])
    made = judge(ids, before, np.concatenate([0.05 * NOISE, 0.02 * NOISE]))
    assert made.mean.gains and made.worse == ["prose"] and not made.kept


@settings(max_examples=40, deadline=None)
@given(
    windows=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", EVALUATED]), st.floats(0.001, 9.0), st.floats(0.001, 9.0)
        ),
        min_size=8,
        max_size=30,
    )
)
def test_what_is_kept_is_never_clearly_worse(windows: list[tuple[str, float, float]]) -> None:
    windows = [("a", 1.0, 1.0), *windows]
    before, after = (np.array([one[side] for one in windows]) for side in (1, 2))
    made = judge([(kind, [1]) for kind, _, _ in windows], before, after)
    for one in made.kinds:
        kind = np.array([kind == one.kind for kind, _, _ in windows])
        rise = float((after - before)[kind].mean())
        assert not made.kept or one.half is None or rise <= one.half + 1e-12
        assert not made.kept or one.change <= (one.error or 0.0)
    assert not made.kept or made.mean.after < made.mean.before


def test_the_windows_of_the_report_do_not_decide() -> None:
    def some(kind: str, first: int, count: int) -> list[Window]:
        return [(kind, [first + i]) for i in range(count)]

    proof = some("prose", 100, EACH) + some("code", 200, EACH)
    held = HeldOutWindows(
        trial=some("prose", 0, EACH) + some("code", 10, EACH),
        proof=proof,
        fitted=False,
        rest=some("prose", 20, 9) + some("code", 40, 1),
    )
    chosen = held_out_windows(held)
    assert not {ids[0] for _, ids in chosen} & {ids[0] for _, ids in proof}
    kinds = [kind for kind, _ in chosen]
    assert kinds.count("prose") == WINDOWS and kinds.count("code") == EACH + 1
