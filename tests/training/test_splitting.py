"""Near duplicates, both sides of the split, lengths: before anything is learned."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from kanna.errors import UsageError
from kanna.training import examples, lengths, near_duplicates, splitting
from kanna.training.examples import Example


def text(seed: int, words: int = 60) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice("abcdefghijklmnop") * chosen.randint(1, 6) for _ in range(words))


def changed(original: str, seed: int, share: float) -> str:
    words = original.split()
    for place in random.Random(seed).sample(range(len(words)), round(len(words) * share)):
        words[place] = "other"
    return " ".join(words)


def resemblance(one: str, two: str) -> float:
    sets = [{tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (one.split(), two.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_clusters_are_those_of_every_pair_compared() -> None:
    texts = [text(i) for i in range(40)]
    texts += [changed(texts[i], i, 0.02 * (i % 5)) for i in range(30)]
    cluster = near_duplicates.clusters(texts)
    for i in range(40):
        assert cluster[i] == i
    for i in range(30):
        alike = resemblance(texts[i], texts[40 + i]) >= near_duplicates.ALIKE
        assert (cluster[40 + i] == i) == alike
    assert {cluster[40 + i] == i for i in range(30)} == {True, False}


def test_short_texts_are_alike_only_when_equal() -> None:
    assert near_duplicates.clusters(["Say fox", "say  fox", "Say dog", ""]) == [0, 0, 2, 3]


def example(content: str, system: str = "") -> Example:
    asked = [{"role": "system", "content": system}] if system else []
    messages = [*asked, {"role": "user", "content": content}]
    return Example(where="x", messages=[*messages, {"role": "assistant", "content": "yes"}])


def test_near_duplicates_are_on_one_side() -> None:
    instruction = text(99, 300)
    every = [example(text(i), instruction) for i in range(30)]
    every += [example(text(i) + " more", instruction) for i in range(20)]
    for seed in range(4):
        done = splitting.split(every, seed)
        assert done.near == 20 and 0 < len(done.held_out) <= 5
        assert len(done.held_out) + len(done.training) == 50
        held, learned = (
            {one.messages[1]["content"].removesuffix(" more") for one in side}
            for side in (done.held_out, done.training)
        )
        assert not held & learned
    again = splitting.split(every[::-1], 3)
    assert [e.to_json() for e in again.held_out] == [e.to_json() for e in done.held_out]


def test_data_that_repeats_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="all 9 examples are nearly the same"):
        splitting.split([example(text(1) + " more" * i) for i in range(9)], 0)


def test_what_is_held_out_may_be_a_whole_group() -> None:
    every = [example(text(i) + " more" * n) for i in range(2) for n in range(3)]
    done = splitting.split(every, 0)
    assert len(done.held_out) == len(done.training) == 3 and done.near == 4


def test_calibration_text_loses_near_copies_of_what_judges_it(tmp_path: Path) -> None:
    from kanna.optimization import fine_tune

    judging = [Example(where="x", prompt="Say", text=text(i)) for i in range(3)]
    lines = [judging[0].text, judging[1].text + " more", *(text(i) for i in range(10, 13))]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"text": one}) for one in lines))
    read = examples.read(tmp_path / "d.jsonl").examples
    kept = fine_tune.apart(read, judging)
    assert [one.text for one in kept] == lines[2:]


def test_lengths_are_measured_and_drawn() -> None:
    measured = lengths.measure([10, 20, 30, 40, 800], 64)
    assert (measured.count, measured.median, measured.most, measured.cut) == (5, 30, 800, 1)
    assert sum(n for _, n in measured.bins) == 5 and measured.bins[-1][0] >= 800
    first, *bars = measured.lines()
    assert "1 of 5 are longer than 64 tokens" in first and len(bars) == 8
    assert bars[0].count("█") > bars[-1].count("█") == 8 and "█" not in bars[3]
    assert lengths.measure([1], 8).bins == [(1, 1)]
