"""Speed as a budget: plans keep a floor by the costs that are known of encodings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import optimizing

from kanna.errors import FormatError, PlanError, UsageError
from kanna.hardware import encoding_speed, encoding_speed_file
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.targets import choose
from kanna.hardware.token_work import TensorWork
from kanna.optimization import measure
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.speed import SpeedGoal
from kanna.plan.allocate import Choice, Option, allocate
from kanna.plan.timed import total_seconds

pytest.importorskip("torch")
pytest.importorskip("transformers")

QUICK = ("q2_k", "q3_k", "q4_0", "q4_k", "q6_k", "q8_0", "f16")
TABLE = {
    "kind": "encoding-speeds",
    "machine": "a board",
    "token": 200,
    "generation": dict(zip(QUICK, (900, 800, 300, 420, 620, 350, 800), strict=True)),
    "error": 0.2,
}
ROWS = {"attn_q": 4096, "attn_k": 1024, "ffn_up": 12288}
COSTS = dict(zip(QUICK, (60.0, 14.0, 4.0, 3.0, 0.2, 0.02, 1e-4), strict=True))
BYTES = dict(zip(QUICK, (2.625, 3.4375, 4.5, 4.5, 6.5625, 8.5, 16.0), strict=True))


def goal(**asked: Any) -> SpeedGoal:
    table = encoding_speed_file.parse(TABLE, "a table")
    work = {
        f"blk.{layer}.{name}.weight": TensorWork(share=1.0, weights=rows * 1024, head=False)
        for layer in range(6)
        for name, rows in ROWS.items()
    }
    return SpeedGoal(table=table, work=work, **asked)


def choices_of(speed: SpeedGoal) -> list[Choice]:
    """Layers matter the less the deeper they lie; q5_k, whose time nobody knows, is among them."""
    return speed.timed(
        [
            Choice(
                name=name,
                options=[
                    Option(
                        encoding=e, nbytes=int(w.weights * BYTES.get(e, 5.5) / 8), cost=c / (at + 1)
                    )
                    for e, c in [*COSTS.items(), ("q5_k", 0.5)]
                ],
            )
            for at, (name, w) in enumerate(speed.work.items())
        ]
    )


def spent(plan: dict[str, Option]) -> tuple[int, float, float]:
    """Bytes, seconds and nats."""
    options = list(plan.values())
    return sum(o.nbytes for o in options), total_seconds(options), sum(o.cost for o in options)


def test_a_floor_is_kept_and_costs_divergence() -> None:
    plain = goal()
    choices = choices_of(plain)
    assert all("q5_k" not in {o.encoding for o in c.options} for c in choices)
    budget = int(sum(w.weights for w in plain.work.values()) * 4.6 / 8)
    usual = spent(plain.share(choices, budget, plain.ceiling(choices, budget, [])))
    assert usual == spent(allocate(choices, budget))
    floor = 1.15 * plain.tokens_per_second(usual[1])
    fast = goal(floor=floor)
    plan = fast.share(choices, budget, fast.ceiling(choices, budget, []))
    nbytes, seconds, nats = spent(plan)
    assert nbytes <= budget and fast.tokens_per_second(seconds) >= floor * (1 - 1e-9)
    assert nats > usual[2]
    predicted = fast.predict({name: o.encoding for name, o in plan.items()})
    assert predicted.generation == pytest.approx(fast.tokens_per_second(seconds))
    assert predicted.prompt is None and predicted.error == 0.2
    with pytest.raises(PlanError, match=r"a board: the fastest is predicted to generate [\d.]+"):
        goal(floor=1e4).check(choices, budget)


def test_matrices_of_one_node_share_a_choice() -> None:
    speed = goal()
    q, k = "blk.0.attn_q.weight", "blk.0.attn_k.weight"
    options = [Option(encoding=e, nbytes=1, cost=1.0) for e in ("q4_0", "q5_k")]
    [timed] = speed.timed([Choice(name=q, options=options)], {q: [q, k]})
    assert [o.encoding for o in timed.options] == ["q4_0"]  # nobody knows the other's time
    assert timed.options[0].seconds == pytest.approx((4096 + 1024) * 1024 * 300e-12)
    [looked_up] = speed.timed([Choice(name="token_embd.weight", options=options)])
    assert [o.seconds for o in looked_up.options] == [0.0, 0.0]


def test_objectives_trade_divergence_for_time() -> None:
    by_objective: dict[str, tuple[int, float, float]] = {}
    for objective in ("quality", "balanced", "speed"):
        speed = goal(objective=objective)
        choices = choices_of(speed)
        budget = int(sum(w.weights for w in speed.work.values()) * 5.0 / 8)
        preset = sum(c.options[2].cost for c in choices)  # q4_0 throughout
        limit = speed.ceiling(choices, budget, [preset])
        by_objective[objective] = spent(speed.share(choices, budget, limit))
    quality, balanced, soonest = by_objective.values()
    assert quality[2] < balanced[2] < soonest[2] <= preset * (1 + 1e-9)
    assert quality[1] > balanced[1] > soonest[1]
    curve = goal().trade_off(choices, budget)
    assert [p["tokens_per_second"] for p in curve] == sorted(p["tokens_per_second"] for p in curve)
    assert curve[0]["kl"] == pytest.approx(quality[2]) and curve[-1]["kl"] >= soonest[2] * 0.999


def test_a_roofline_takes_bytes_for_time() -> None:
    table = encoding_speed.of_target(choose("raspberry-pi-5"))
    assert table.generation["q8_0"] / table.generation["q4_0"] == pytest.approx(8.5 / 4.5)
    head = TensorWork(share=1.0, weights=1e8, head=True)
    layers = TensorWork(share=1.0, weights=3e9, head=False)
    speed = table.predict([("q4_0", layers), ("q8_0", head)])
    bytes_read = 3e9 * 4.5 / 8 + 1e8 * 8.5 / 8
    assert speed.generation == pytest.approx(1 / (1e-3 + bytes_read / (17.1e9 * 0.58)))
    assert speed.prompt == pytest.approx(72e9 / 6e9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "?"}, "no encoding speeds"),
        ({"generation": {}}, "names no encoding"),
        ({"generation": {"q4_0": -1}}, "generation.q4_0"),
        ({"token": "x"}, "token"),
    ],
)
def test_a_table_that_is_none_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        encoding_speed_file.parse(TABLE | change, "a table")


def test_a_table_is_read_as_it_is_written(tmp_path: Path) -> None:
    table = EncodingSpeeds(
        machine="here", token=2.5, generation={"q4_0": 3.0}, spread={"q4_0": (2.0, 4.0)}
    )
    (tmp_path / "a.json").write_text(json.dumps(table.to_dict()), encoding="utf-8")
    assert encoding_speed_file.read(tmp_path / "a.json") == table


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    common: dict[str, Any] = {"source": "x", "out": tmp_path / "o", "format": "gguf", "bpw": 4.0}
    with pytest.raises(UsageError, match="nothing is asked of the speed"):
        OptimizeRequest(**common, speeds="a.json")
    with pytest.raises(UsageError, match="-1 tokens/s"):
        OptimizeRequest(**common, min_speed=-1.0)
    with pytest.raises(UsageError, match="quality or balanced or speed"):
        OptimizeRequest(**common, objective="haste")
    command = OptimizeRequest(**common, min_speed=15.0, speeds="a.json").command()
    assert "--min-speed 15" in command and "--speeds a.json" in command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = optimizing.fill(tmp_path_factory.mktemp("speed"))
    (folder / "speeds.json").write_text(json.dumps(TABLE), encoding="utf-8")
    with optimizing.quick() as patch:
        patch.setattr(measure, "CANDIDATES", QUICK)
        yield folder


def test_optimize_keeps_a_floor_and_reports_it(home: Path) -> None:
    words = ["--effort", "fast", "--size", "1300kB", "--speeds", str(home / "speeds.json")]
    refused = optimizing.invoke(home, *words, "--min-speed", "1000000")
    assert refused.exit_code == 1 and "the fastest is predicted to generate" in refused.stderr
    result = optimizing.invoke(home, *words, "--objective", "balanced")
    assert result.exit_code == 0, result.stderr
    about = json.loads(result.stdout)
    speed = about["speed"]
    assert speed["objective"] == "balanced" and speed["machine"] == "a board"
    first = speed["rows"][0]
    assert first["bytes"] <= 1_300_000 and first["predicted"] > 0 and first["measured"] > 0
    curves = [speed["curve"], *(other["curve"] for other in speed["other_sizes"])]
    assert len(curves) > 1 and all(curve[0]["kl"] <= curve[-1]["kl"] for curve in curves)
    for other in speed["other_sizes"]:
        # Bytes are the third axis: fewer of them cost divergence, more of them save some.
        closer = speed["curve"][0]["kl"] - other["curve"][0]["kl"]
        assert (other["bytes"] - speed["bytes"]) * closer >= 0
    page = (home / "out" / "report.html").read_text(encoding="utf-8")
    assert "KL divergence by tokens per second" in page and "predicted ÷ measured" in page
    wrong = optimizing.invoke(home, *words, "--min-speed", "5", "--format", "mlx")
    assert wrong.exit_code == 2 and "say nothing of mlx" in wrong.stderr
