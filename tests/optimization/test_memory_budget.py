"""`kanna optimize --memory`.

What llama.cpp really takes, the cache as part of the choice, and one more try.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import needs

import kanna
from kanna import families
from kanna.cli.main import cli
from kanna.errors import KannaError, PlanError, UsageError
from kanna.runtimes.llamacpp import CACHES, RUNTIME
from kanna.sizing import cache_bytes

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
needs.llama_cpp()

from helpers import tiny_models  # noqa: E402 - needs torch

from kanna.benchmark.resident import Overhead, Resident, overhead, resident  # noqa: E402
from kanna.optimization import measure  # noqa: E402 - needs torch
from kanna.optimization import memory_budget as footprint  # noqa: E402 - needs torch
from kanna.optimization.context import Context, Workspace  # noqa: E402
from kanna.optimization.memory_budget import SLACK, CacheOption, MemoryBudget  # noqa: E402
from kanna.optimization.search import SizeRange  # noqa: E402
from kanna.plan.allocate import Choice, Option  # noqa: E402

CONTEXT = 512
ANY = SizeRange(least=0, most=1 << 40, fixed=0)


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from kanna.calibration import shrinkage, windows

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KANNA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(windows, "WINDOW", 128)
        patch.setattr(shrinkage, "ROWS", 4)
        patch.setattr(
            measure, "CANDIDATES", ("q2_k", "q3_k", "q4_0", "q4_k", "q6_k", "q8_0", "f16")
        )
        patch.setattr(measure, "ROWS", 16)
        patch.setattr(measure, "HEAD_ROWS", 32)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("memory")
    tiny_models.make("llama", home / "tiny")
    (home / "text.txt").write_text(tiny_models.TEXT * 60, encoding="utf-8")
    return home


def workspace_of(source: Path, folder: Path) -> Workspace:
    """A source in a folder, on one thread."""
    opened = kanna.open_source(source)
    return Workspace(
        source=opened,
        model=families.load_model(opened),
        folder=folder,
        context=Context(threads=1),
    )


@pytest.fixture(scope="module")
def wide(home: Path) -> MemoryBudget:
    """The rooms beside the tiny model's weights when memory does not matter."""
    return MemoryBudget(workspace_of(home / "tiny", home), 1_000_000_000, CONTEXT, ANY)


def optimize(home: Path, *words: str, out: str = "out") -> Result:
    usual = [
        "--calibration",
        str(home / "text.txt"),
        "--tokens",
        "1024",
        "--text",
        str(home / "text.txt"),
    ]
    usual += [
        "--windows",
        "1",
        "--threads",
        "1",
        "--json",
        "--quiet",
        "--effort",
        "fast",
        "--context",
        str(CONTEXT),
    ]
    return CliRunner().invoke(
        cli, ["optimize", str(home / "tiny"), "-o", str(home / out), *usual, *words]
    )


def beside(wide: MemoryBudget, cache: str) -> int:
    """Bytes a file must leave of the memory."""
    return wide.memory - next(r.nbytes for r in wide.options if r.cache == cache)


def test_llama_cpp_takes_what_it_is_asked_for(home: Path, wide: MemoryBudget) -> None:
    model = families.load_model(kanna.open_source(home / "tiny"))
    sizes = {r.cache: r.overhead.kv for r in wide.options}
    whole = cache_bytes(model, CONTEXT)
    assert sizes["f16"] == pytest.approx(whole, rel=0.02)
    assert sizes["q8_0"] == pytest.approx(whole * 34 / 64, rel=0.02)
    assert sizes["q4_0"] == pytest.approx(whole * 18 / 64, rel=0.02)


def test_the_prediction_covers_what_is_resident(
    home: Path, wide: MemoryBudget, tmp_path: Path
) -> None:
    made = kanna.convert(home / "tiny", tmp_path / "m.gguf", preset="Q8_0").file_bytes
    for cache in ("f16", "q8_0"):
        found = resident(tmp_path / "m.gguf", context=CONTEXT, cache=cache, threads=1)
        expected = beside(wide, cache) + made
        assert expected - 1.5 * SLACK < found.peak <= expected, cache
        assert found.interpreter > 10_000_000


def test_a_limit_is_kept_in_a_process_of_its_own(home: Path, wide: MemoryBudget) -> None:
    limit = beside(wide, "f16") + 1_400_000
    run = optimize(home, "--memory", str(limit))
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    memory = found["memory"]
    assert memory["limit"] == limit and memory["context"] == CONTEXT
    assert 0 < memory["measured"] <= memory["predicted"] <= limit
    again = resident(Path(found["artefact"]), context=CONTEXT, cache=memory["cache"], threads=1)
    assert again.peak <= limit and again.peak == pytest.approx(memory["measured"], abs=2_000_000)
    (trial,) = memory["tries"]
    assert trial["measured"] == pytest.approx(memory["measured"], abs=2_000_000), (
        "values make no difference"
    )
    assert not list((home / "out").glob(".memory-*"))
    assert found["file_bytes"] <= found["budget"]
    assert {r["cache"] for r in memory["rooms"]} == set(CACHES)
    assert f"-c {CONTEXT}" in memory["command"] and memory["why"]
    assert memory["kl_with_cache"] > 0
    told = json.loads((home / "out" / "report.json").read_text())["optimize"]["memory"]
    assert told["measured"] == memory["measured"]
    page = (home / "out" / "report.html").read_text()
    assert "Memory" in page and f"{CONTEXT} tokens" in page and "q8_0" in page


def test_too_much_memory_is_planned_again(
    home: Path, wide: MemoryBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if llama.cpp took 300 kB more than its buffers say, for every file."""
    limit = beside(wide, "f16") + 1_500_000
    asked: list[int] = []

    def more(path: Path, *, context: int, cache: str, threads: int | None) -> Resident:
        asked.append(path.stat().st_size)
        return Resident(peak=beside(wide, cache) + path.stat().st_size + 300_000, interpreter=1)

    monkeypatch.setattr(footprint, "resident", more)
    run = optimize(home, "--memory", str(limit), out="again")
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    first, *_, last = found["memory"]["tries"]
    assert first["measured"] > limit >= last["measured"]
    assert (
        found["memory"]["measured"]
        == beside(wide, found["memory"]["cache"]) + found["file_bytes"] + 300_000
        <= limit
    )
    assert last["file_bytes"] <= first["file_bytes"] - (first["measured"] - limit)
    assert found["file_bytes"] in asked
    # No plan of any size helps against a process that grows with every try.
    monkeypatch.setattr(
        footprint, "resident", lambda *_, **__: Resident(peak=limit + 1, interpreter=1)
    )
    monkeypatch.setattr(footprint, "TRIES", 2)
    run = optimize(home, "--memory", str(limit), out="again")
    assert run.exit_code == 1 and "2 files were tried" in run.stderr


def test_what_cannot_be_is_said_with_the_range(home: Path, wide: MemoryBudget) -> None:
    run = optimize(home, "--memory", "9MB", out="never")
    assert run.exit_code == 1, run.output
    assert (
        f"cache and buffers for {CONTEXT} tokens" in run.stderr and "bytes of memory" in run.stderr
    )
    assert not (home / "never").exists()
    least = int(run.stderr.split("Expected: ")[1].split(" to ")[0].replace(",", ""))
    # The vocabulary takes some thousand bytes more or less from one process to the next.
    run = optimize(home, "--memory", str(least - 100_000), out="never")
    assert run.exit_code == 1 and not (home / "never").exists()
    assert int(
        run.stderr.split("Expected: ")[1].split(" to ")[0].replace(",", "")
    ) == pytest.approx(least, abs=100_000)


def rooms(least: dict[str, int]) -> MemoryBudget:
    """A footprint with rooms of so many bytes, made without llama.cpp."""
    made = object.__new__(MemoryBudget)
    made._masked = False
    none = Overhead(loaded=0, kv=0, compute=0, output=0)
    made.options = [CacheOption(cache=c, overhead=none, nbytes=n) for c, n in least.items()]
    made.memory, made.context, made.why, made.judged = 1000, 64, "", 0
    made._workspace = SimpleNamespace(context=Context(threads=1))
    made.chosen, made._feasible = made.options[0], SizeRange(least=10, most=160, fixed=0)
    return made


CHOICES = [
    Choice(
        name="a",
        options=[Option(encoding=str(b), nbytes=b, cost=1.0 / b) for b in (10, 20, 40, 80, 160)],
    ),
]
TEXT = [("prose", [1, 2, 3])]


@pytest.mark.parametrize(
    ("sizes", "shifts", "chosen", "why"),
    [
        # 1/20 with float16; 1/40 + 0.001 with half the cache: bytes for weights are worth it.
        ({"f16": 30, "q8_0": 50, "q4_0": 60}, (0, 0.001, 0.05), "q8_0", "0.02600 nats"),
        ({"f16": 30, "q8_0": 50, "q4_0": 60}, (0, 0.03, 0.05), "f16", "0.05000 nats"),
        # Within two per cent of float16, float16 stays.
        ({"f16": 30, "q8_0": 50, "q4_0": 60}, (0, 0.0245, 0.9), "f16", "0.05000 nats"),
        ({"f16": 5, "q8_0": 30, "q4_0": 90}, (0, 0.001, 0.002), "q4_0", "0.01450 nats"),
        ({"f16": 5, "q8_0": 7, "q4_0": 12}, (0, 9, 9), "q4_0", "no room"),
        ({"f16": 400, "q8_0": 500, "q4_0": 600}, (9, 9, 9), "f16", "everything fits"),
        ({"f16": 30}, (0,), "f16", "do not fit the heads"),
    ],
)
def test_the_cache_is_chosen_by_what_both_cost(
    sizes: dict[str, int], shifts: tuple[float, ...], chosen: str, why: str, monkeypatch: Any
) -> None:
    one = rooms(sizes)
    monkeypatch.setattr(one.__class__, "_shifts", lambda *_: dict(zip(sizes, shifts, strict=True)))
    one.choose(CHOICES, TEXT, "")
    assert one.chosen.cache == chosen and why in one.why


def test_without_text_the_rule_is_float16() -> None:
    one = rooms({"f16": 30, "q8_0": 50})
    one.choose(CHOICES, [], "")
    assert one.chosen.cache == "f16" and "no text" in one.why


def test_a_smaller_cache_is_measured_once(home: Path, wide: MemoryBudget, tmp_path: Path) -> None:
    windows = [("prose", [1, *range(5, 200)]), ("prose", [1, *range(9, 204)])]
    budget = MemoryBudget(workspace_of(home / "tiny", tmp_path), 1_000_000_000, CONTEXT, ANY)
    shifts = budget._shifts(list(CACHES), windows, "mark")
    assert 0 == shifts["f16"] < shifts["q8_0"] < shifts["q8_0:q4_0"] < shifts["q4_0"]
    assert budget.judged == 2 * 196 - 1, "both windows in one text, with one BOS"
    kept = (tmp_path / "cache.json").stat().st_mtime_ns
    assert budget._shifts(list(CACHES), windows, "mark") == shifts
    assert (tmp_path / "cache.json").stat().st_mtime_ns == kept
    assert not list(tmp_path.glob(".caches-*"))
    budget._shifts(["f16"], windows, "another")
    assert json.loads((tmp_path / "cache.json").read_text())["kl"] == {"f16": 0.0}


def test_caches_that_heads_cannot_have_are_left_out(tmp_path: Path) -> None:
    """Heads of 48 values are no multiple of blocks of 32."""
    tiny_models.make("mistral-nemo", tmp_path / "tiny")
    found = MemoryBudget(workspace_of(tmp_path / "tiny", tmp_path), 10**9, 256, ANY)
    assert [o.cache for o in found.options] == ["f16"]
    path = tmp_path / "m.gguf"
    kanna.convert(tmp_path / "tiny", path, preset="Q8_0")
    with pytest.raises(KannaError, match="cannot make a context"):
        overhead(path, context=256, cache="q4_0", threads=1)
    with pytest.raises(UsageError, match="a cache of q5_k"):
        RUNTIME.open(path, cache="q5_k")


def test_a_rival_that_takes_more_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rooms({"f16": 30})
    one.measured, one.tries = {}, [{"measured": 1}]
    rows = [SimpleNamespace(name=name, path=str(tmp_path / name)) for name in ("ours", "rival")]
    peaks = {"ours": 999, "rival": 1001}
    monkeypatch.setattr(
        footprint, "resident", lambda path, **_: Resident(peak=peaks[path.name], interpreter=1)
    )
    assert [row.name for row in one.within(rows)] == ["ours"]
    peaks["ours"] = 1001
    with pytest.raises(PlanError, match="1,001 bytes"):
        one.within(rows)
