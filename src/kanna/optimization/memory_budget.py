"""What `--memory` leaves for weights, and the proof.

A stock llama.cpp that has them loaded and its cache full.

What is taken beside the weights is asked of llama.cpp itself, for every encoding its cache may
have. A smaller cache leaves more bytes for weights and costs some divergence of its own: both are
known before one is chosen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from kanna._util.atomic import write_json
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.benchmark.resident import Overhead, Resident, overhead, resident
from kanna.calibration import IMATRIX
from kanna.comparison.rows import Row
from kanna.conversion import convert
from kanna.errors import KannaError, MissingError, PlanError
from kanna.evaluation import reference_gguf
from kanna.formats import gguf
from kanna.hardware.memory import memory as machine
from kanna.optimization.budget import Budget
from kanna.optimization.kl_scorer import Judge, Spare
from kanna.optimization.search import Limits, fill
from kanna.plan import load
from kanna.plan.allocate import Choice, allocate
from kanna.runtimes.llamacpp import CACHES, RUNTIME
from kanna.sources import Source

T = TypeVar("T")
FILE, TRIAL = "cache.json", ".memory-trial.gguf"
SLACK = 8_000_000
"""Bytes for what is nobody's buffer: code of llama.cpp, stacks, its sampler.

Five million were measured.
"""
TRIES = 4
GAIN = 0.02
"""How much less divergence a smaller cache must promise: its own is measured at short contexts."""
WINDOWS = 8


@dataclass(slots=True, kw_only=True)
class Room:
    """One encoding of the cache.

    cache costs beside exact weights; None: not known.

    Attributes:
        nbytes: What the file may have.
        least: Nats the best plan within it should cost.
        shift: Nats the.
    """

    cache: str
    overhead: Overhead
    nbytes: int
    least: float | None = None
    shift: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"overhead_bytes": self.overhead.total}


class Footprint:
    """The memory of one artefact at one context.

    Raises MissingError without llama.cpp, PlanError with the range when no cache leaves room for
    the smallest file.
    """

    def __init__(
        self,
        source: Source,
        memory: int,
        context: int,
        feasible: Limits,
        threads: int | None,
        bar: Progress,
    ) -> None:
        self.memory, self.context, self._threads, self._source = memory, context, threads, source
        self._feasible, self._bar = feasible, bar
        exact = reference_gguf(source, progress=bar)
        # What llama.cpp makes of the header is counted as loaded; its bytes are not kept.
        header = exact.stat().st_size - sum(t.nbytes for t in gguf.read(exact).tensors.values())
        self.rooms: list[Room] = []
        bar.start("memory", len(CACHES), "caches")
        for cache in CACHES:
            try:
                parts = overhead(exact, context=context, cache=cache, threads=threads)
            except MissingError:
                raise
            except KannaError:
                if cache == CACHES[0]:
                    raise
                continue  # heads of this model are no multiple of its blocks
            self.rooms.append(
                Room(cache=cache, overhead=parts, nbytes=memory - parts.total - SLACK + header)
            )
            bar.advance(1, cache)
        bar.finish()
        self._beside = {room.cache: memory - room.nbytes for room in self.rooms}
        self.chosen, self.why = self.rooms[0], ""
        self.found: dict[str, Resident] = {}
        self.tries: list[dict[str, Any]] = []
        self._check()

    @property
    def budget(self) -> Budget:
        said = f"{format_size(self.memory)} of memory at {self.context} tokens, cache in {self.chosen.cache}"
        return Budget(nbytes=self.chosen.nbytes, said=said)

    def _check(self) -> None:
        widest, exact = max(self.rooms, key=lambda r: r.nbytes), self.rooms[0]
        if widest.nbytes < self._feasible.least:
            raise PlanError(
                f"the cache and buffers for {self.context} tokens take {format_size(widest.overhead.total)}, in "
                f"{widest.cache}: the smallest file does not fit into {format_size(self.memory)} beside them",
                expected=f"{self._beside[widest.cache] + self._feasible.least:,} to "
                f"{self._beside[exact.cache] + self._feasible.most:,} bytes of memory",
                todo="lower --context or raise --memory",
            )
        self.chosen = widest

    def settle(
        self,
        choices: Sequence[Choice],
        stats: Path,
        plan: Path,
        text: Spare,
        mark: str,
        reserve: int,
        bar: Progress,
        notes: list[str],
    ) -> None:
        """Choose the cache, and lower the budget until llama.cpp keeps the limit with a file of that plan.

        Memory does not depend on values: quick ones do. reserve: bytes of the budget that plans do not get.
        """
        self.choose(choices, text, mark, plan.parent, bar)
        trial = plan.with_name(TRIAL)
        try:
            while True:
                fill(self._source, choices, stats, self.chosen.nbytes - reserve, plan)
                quick = load(plan)
                rules = [rule.model_copy(update={"method": "search"}) for rule in quick.rules]
                quick = quick.model_copy(update={"rules": rules})
                imatrix = stats / IMATRIX
                convert(
                    self._source,
                    trial,
                    plan=quick,
                    imatrix=imatrix,
                    threads=self._threads,
                    overwrite=True,
                )
                if self._holds(trial, notes):
                    return
        finally:
            trial.unlink(missing_ok=True)

    def choose(
        self, choices: Sequence[Choice], text: Spare, mark: str, folder: Path, bar: Progress
    ) -> None:
        """Take the cache with which weights and cache together should cost least.

        Float16 unless another is worth it.

        Args:
            mark: Hash of what the costs in `choices` came from.
        """
        feasible = self._feasible
        able = [r for r in self.rooms if r.nbytes >= feasible.least]
        for room in able:
            found = allocate(choices, min(room.nbytes, feasible.most) - feasible.fixed)
            room.least = sum(option.cost for option in found.values())
        self.chosen = able[0]
        if able[0].cache != CACHES[0]:
            self.why = "a cache in float16 leaves no room for the smallest file"
        if len(able) == 1:
            self.why = self.why or "the others do not fit the heads of this model"
            return
        if able[0].nbytes >= feasible.most:
            self.why = "everything fits beside a cache in float16"
            return
        windows = text.trial[:: max(1, len(text.trial) // WINDOWS)]
        if not windows:
            self.why = self.why or "float16, since there is no text to measure a smaller cache on"
            return
        shifts = self._shifts([r.cache for r in able], windows, mark, folder, bar)
        for room in able:
            room.shift = shifts[room.cache]
        totals = {room.cache: (room.least or 0.0) + shifts[room.cache] for room in able}
        best = min(able, key=lambda r: totals[r.cache])
        if totals[able[0].cache] <= totals[best.cache] * (1 + GAIN):
            best = able[0]
        self.chosen = best
        self.why = (
            f"{totals[best.cache]:.5f} nats expected of weights and cache together; "
            + ", ".join(
                f"{cache} {total:.5f}" for cache, total in totals.items() if cache != best.cache
            )
        )

    def _shifts(
        self,
        caches: list[str],
        windows: Sequence[tuple[str, list[int]]],
        mark: str,
        folder: Path,
        bar: Progress,
    ) -> dict[str, float]:
        """Mean KL divergence of exact weights with each cache from those with one in float16, kept in cache.json."""
        known = [mark, RUNTIME.available().version, [ids for _, ids in windows]]
        key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        found: dict[str, float] = {}
        with suppress(OSError, ValueError, KeyError):
            kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if kept["key"] == key:
                found = kept["kl"]
        missing = [c for c in caches if c not in found]
        if missing:
            exact = reference_gguf(self._source, progress=bar)
            with Judge(self._source, windows, folder, self._threads) as judge:
                for cache in missing:
                    found[cache] = (
                        0.0
                        if cache == CACHES[0]
                        else float(judge.kl(exact, bar, cache=cache).mean())
                    )
            write_json(folder / FILE, {"key": key, "kl": found})
        return found

    def _holds(self, trial: Path, notes: list[str]) -> bool:
        """Whether the limit is kept with this file.

        If not, `budget` is lower. PlanError after TRIES files.
        """
        size = trial.stat().st_size
        expected = self.predicted(size)
        if expected > machine().available:
            notes.append(
                f"memory was not measured: {format_size(expected)} are not free on this machine"
            )
            return True
        peak = self._measure(trial).peak
        self.tries.append({"file_bytes": size, "predicted": expected, "measured": peak})
        if peak <= self.memory:
            return True
        if len(self.tries) >= TRIES:
            raise PlanError(
                f"llama.cpp holds {peak:,} bytes with a file of {size:,}",
                expected=f"at most {self.memory:,}; {TRIES} files were tried",
                todo="lower --memory by the difference",
            )
        self.chosen.nbytes = min(self.chosen.nbytes, size) - (peak - self.memory) - (1 << 16)
        return False

    def within(self, rows: list[tuple[Row, T]]) -> list[tuple[Row, T]]:
        """The rows that keep the limit, measured as they are.

        PlanError when ours, the first, does not.
        """
        if not self.tries:
            return rows
        for row, _ in rows:
            self.found[row.name] = self._measure(Path(row.path or ""))
        if self.found[rows[0][0].name].peak > self.memory:
            raise PlanError(
                f"llama.cpp holds {self.found[rows[0][0].name].peak:,} bytes with {rows[0][0].path}",
                expected=f"at most {self.memory:,}",
                todo="lower --memory by the difference",
            )
        return [(row, how) for row, how in rows if self.found[row.name].peak <= self.memory]

    def _measure(self, artefact: Path) -> Resident:
        self._bar.start("load and fill", self.context, "tokens")
        found = resident(
            artefact, context=self.context, cache=self.chosen.cache, threads=self._threads
        )
        self._bar.finish()
        return found

    def predicted(self, size: int) -> int:
        """Bytes of memory expected with a file of `size` bytes."""
        return self._beside[self.chosen.cache] + size

    def tell(self, row: Row, text: Spare, folder: Path, bar: Progress) -> dict[str, Any]:
        """What the result and the report say of the artefact to use, its divergence with that cache among it."""
        path = Path(row.path or "")
        windows = text.proof[:: max(1, len(text.proof) // WINDOWS)]
        kl: float | None = None
        if windows:
            with Judge(self._source, windows, folder, self._threads) as judge:
                kl = float(judge.kl(path, bar, cache=self.chosen.cache).mean())
        kind, found = self.chosen.cache, self.found.get(row.name)
        flags = "" if kind == CACHES[0] else f" -fa on -ctk {kind} -ctv {kind}"
        return {
            "limit": self.memory,
            "context": self.context,
            "cache": kind,
            "why": self.why,
            "predicted": self.predicted(path.stat().st_size),
            "measured": found.peak if found else None,
            "interpreter": found.interpreter if found else None,
            "tries": self.tries,
            "rooms": [r.to_dict() for r in self.rooms],
            "kl_with_cache": kl,
            "command": f"llama-server -m {path.name} --no-mmap -np 1 -c {self.context}{flags}",
        }
