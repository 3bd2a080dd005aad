"""What `--memory` leaves for weights, and the proof: llama.cpp with them and its cache full.

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
from typing import Any

from kanna._util.atomic import write_json
from kanna._util.progress import Silent
from kanna._util.units import format_size
from kanna.benchmark.resident import Overhead, Resident, overhead, resident
from kanna.calibration.statistics import IMATRIX
from kanna.comparison.rows import Row
from kanna.conversion.base import ConversionRequest
from kanna.conversion.gguf import GGUFConversion
from kanna.errors import KannaError, MissingError, PlanError
from kanna.evaluation import reference_gguf
from kanna.evaluation.trained_length import trained_length
from kanna.formats import gguf
from kanna.hardware.memory import memory as machine
from kanna.optimization.budget import Budget
from kanna.optimization.cache_costs import cache_costs, long_text
from kanna.optimization.context import Workspace
from kanna.optimization.kl_scorer import HeldOutWindows, KLScorer, Window
from kanna.optimization.search import Planner, SizeRange, search
from kanna.plan import load
from kanna.plan.allocate import Choice, allocate
from kanna.runtimes.cache_types import cache_types
from kanna.runtimes.llamacpp import CACHES, RUNTIME

FILE, TRIAL = "cache.json", ".memory-trial.gguf"
SLACK = 8_000_000
"""Bytes for what is in no buffer: code of llama.cpp, stacks, its sampler.

Five million were measured.
"""
TRIES = 4
GAIN = 0.02
"""How much less divergence a smaller cache must promise: what it costs is known of one text."""
WINDOWS = 8


@dataclass(slots=True, kw_only=True)
class CacheOption:
    """One encoding of the cache.

    Attributes:
        cache: The encoding, or `KEYS:VALUES`.
        overhead: What llama.cpp takes beside the weights.
        nbytes: What the file may have.
        least: Nats that the best plan within `nbytes` should cost.
        shift: Nats that the cache costs with exact weights; None: not known.
    """

    cache: str
    overhead: Overhead
    nbytes: int
    least: float | None = None
    shift: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"overhead_bytes": self.overhead.total}


class MemoryBudget:
    """The memory that one artefact may take in llama.cpp, at one context."""

    def __init__(
        self,
        workspace: Workspace,
        memory: int,
        context: int,
        feasible: SizeRange,
        caches: Sequence[str] = CACHES,
    ) -> None:
        """Ask llama.cpp what it takes beside the weights with every cache.

        Args:
            workspace: The source.
            memory: Bytes that weights, cache and buffers may take.
            context: Tokens of the cache.
            feasible: Bytes of files that make sense.
            caches: Encodings the cache may have, the most exact first.

        Raises:
            MissingError: llama.cpp is not installed.
            PlanError: No cache leaves enough for the smallest file; it names the feasible range.
        """
        self.memory, self.context, self._feasible = memory, context, feasible
        self._workspace, self._masked = workspace, len(caches) < len(CACHES)
        progress, threads = workspace.context.progress, workspace.context.threads
        exact = reference_gguf(workspace.source, progress=progress)
        # What llama.cpp makes of the header is counted as loaded; its bytes are not kept.
        header = exact.stat().st_size - sum(t.nbytes for t in gguf.read(exact).tensors.values())
        self.options: list[CacheOption] = []
        progress.start("memory", len(caches), "caches")
        for cache in caches:
            try:
                parts = overhead(exact, context=context, cache=cache, threads=threads)
            except MissingError:
                raise
            except KannaError:
                if cache == CACHES[0]:
                    raise
                continue  # heads of this model are no multiple of its blocks
            available = memory - parts.total - SLACK + header
            self.options.append(CacheOption(cache=cache, overhead=parts, nbytes=available))
            progress.advance(1, cache)
        progress.finish()
        self._taken = {option.cache: memory - option.nbytes for option in self.options}
        self.chosen, self.why, self.judged = self.options[0], "", 0
        self.measured: dict[str, Resident] = {}
        self.tries: list[dict[str, Any]] = []
        self._check()

    @property
    def budget(self) -> Budget:
        """What the chosen cache leaves for the file."""
        limit = f"{format_size(self.memory)} of memory at {self.context} tokens"
        words = f"{limit}, cache in {self.chosen.cache}"
        return Budget(nbytes=self.chosen.nbytes, words=words)

    def _check(self) -> None:
        widest, exact = max(self.options, key=lambda o: o.nbytes), self.options[0]
        if widest.nbytes < self._feasible.least:
            raise PlanError(
                f"the cache and buffers for {self.context} tokens take "
                f"{format_size(widest.overhead.total)}, in {widest.cache}: the smallest file does "
                f"not fit into {format_size(self.memory)} beside them",
                expected=f"{self._taken[widest.cache] + self._feasible.least:,} to "
                f"{self._taken[exact.cache] + self._feasible.most:,} bytes of memory",
                todo="lower --context or raise --memory",
            )
        self.chosen = widest

    def settle(
        self,
        planner: Planner,
        choices: Sequence[Choice],
        plan: Path,
        windows: HeldOutWindows,
        *,
        key: str,
        reserve: int,
    ) -> None:
        """Choose the cache, and lower the budget until llama.cpp keeps the limit.

        It is asked with a file of the plan. Memory does not depend on values, so they are chosen by
        a quick method.

        Args:
            planner: The format, with statistics.
            choices: What the plan is chosen from.
            plan: Is written.
            windows: Those not of the proof decide on the cache.
            key: Hash of what the costs in `choices` came from.
            reserve: Bytes of the budget that the plan does not get.

        Raises:
            PlanError: llama.cpp takes more, whatever is tried.
        """
        self.choose(choices, [*windows.trial, *windows.rest], key)
        trial = plan.with_name(TRIAL)
        workspace = planner.workspace
        imatrix = workspace.calibrated / IMATRIX
        try:
            while True:
                search(planner, choices, self.chosen.nbytes - reserve, plan)
                quick = load(plan)
                rules = [rule.model_copy(update={"method": "search"}) for rule in quick.rules]
                quick = quick.model_copy(update={"rules": rules})
                request = ConversionRequest(plan=quick, imatrix=imatrix)
                GGUFConversion(workspace.source, workspace.model, trial, request).write(
                    workspace.context.running(Silent())
                )
                if self._holds(trial):
                    return
        finally:
            trial.unlink(missing_ok=True)

    def choose(self, choices: Sequence[Choice], windows: Sequence[Window], key: str) -> None:
        """Take the cache with which weights and cache together should cost least.

        That is float16 unless another is worth it.

        Args:
            choices: What plans are chosen from.
            windows: Text to measure caches on.
            key: Hash of what the costs in `choices` came from.
        """
        feasible = self._feasible
        able = [o for o in self.options if o.nbytes >= feasible.least]
        for option in able:
            plan = allocate(choices, min(option.nbytes, feasible.most) - feasible.fixed)
            option.least = sum(o.cost for o in plan.values())
        first = self.chosen = able[0]
        if first.cache != CACHES[0]:
            self.why = "a cache in float16 leaves no room for the smallest file"
        if len(able) == 1:
            self.why = self.why or (
                "the target's attention reads no other that fits the heads of this model"
                if self._masked
                else "the others do not fit the heads of this model"
            )
            return
        if first.nbytes >= feasible.most:
            self.why = "everything fits beside a cache in float16"
            return
        if not windows:
            self.why = self.why or "float16, since there is no text to measure a smaller cache on"
            return
        shifts = self._shifts([o.cache for o in able], windows, key)
        for option in able:
            option.shift = shifts[option.cache]
        totals = {o.cache: (o.least or 0.0) + shifts[o.cache] for o in able}
        best = min(able, key=lambda o: totals[o.cache])
        if totals[first.cache] <= totals[best.cache] * (1 + GAIN):
            best = first
        self.chosen = best
        others = [f"{c} {total:.5f}" for c, total in totals.items() if c != best.cache]
        at = f", the cache judged after {self.judged} tokens" if self.judged else ""
        expected = f"{totals[best.cache]:.5f} nats expected of weights and cache together{at}"
        self.why = f"{expected}; {', '.join(others)}"

    def _shifts(
        self, caches: Sequence[str], windows: Sequence[Window], key: str
    ) -> dict[str, float]:
        """Nats that each cache costs at the end of the context, with exact weights; in cache.json.

        The context is that of the budget, or what the model was trained on, or what text there is.
        """
        workspace = self._workspace
        exact = reference_gguf(workspace.source, progress=workspace.context.progress)
        ids = long_text(windows, min(self.context, trained_length(workspace.model) or self.context))
        self.judged = len(ids)
        mark = hashlib.sha256(
            json.dumps([key, RUNTIME.available().version, ids]).encode()
        ).hexdigest()
        path = workspace.folder / FILE
        shifts: dict[str, float] = {}
        with suppress(OSError, ValueError, KeyError):
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["key"] == mark:
                shifts = saved["kl"]
        missing = [c for c in caches if c not in shifts]
        if missing:
            shifts |= {c: 0.0 for c in missing if c == CACHES[0]}
            if measured := [c for c in missing if c != CACHES[0]]:
                shifts |= cache_costs(workspace, exact, measured, ids)
            write_json(path, {"key": mark, "tokens": len(ids), "kl": shifts})
        return shifts

    def _holds(self, trial: Path) -> bool:
        """Whether the limit is kept with this file; if not, the budget is lowered.

        PlanError after TRIES files.
        """
        size = trial.stat().st_size
        expected = self.predicted(size)
        if expected > machine().available:
            self._workspace.context.note(
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

    def within(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that keep the limit, measured as they are.

        Raises:
            PlanError: The first does not keep it.
        """
        if not self.tries:
            return list(rows)
        for row in rows:
            self.measured[row.name] = self._measure(Path(row.path or ""))
        if (peak := self.measured[rows[0].name].peak) > self.memory:
            raise PlanError(
                f"llama.cpp holds {peak:,} bytes with {rows[0].path}",
                expected=f"at most {self.memory:,}",
                todo="lower --memory by the difference",
            )
        return [row for row in rows if self.measured[row.name].peak <= self.memory]

    def _measure(self, artefact: Path) -> Resident:
        context = self._workspace.context
        context.progress.start("load and fill", self.context, "tokens")
        measured = resident(
            artefact, context=self.context, cache=self.chosen.cache, threads=context.threads
        )
        context.progress.finish()
        return measured

    def predicted(self, size: int) -> int:
        """Bytes of memory expected with a file of `size` bytes."""
        return self._taken[self.chosen.cache] + size

    def summary(self, row: Row, windows: Sequence[Window]) -> dict[str, Any]:
        """What the report says of the artefact to use, with its divergence under that cache."""
        path = Path(row.path or "")
        sample = windows[:: max(1, len(windows) // WINDOWS)]
        kl: float | None = None
        if sample:
            with KLScorer(self._workspace, sample) as scorer:
                kl = float(scorer.kl(path, cache=self.chosen.cache).mean())
        cache, measured = self.chosen.cache, self.measured.get(row.name)
        keys, values = cache_types(cache)
        flags = "" if cache == CACHES[0] else f" -fa on -ctk {keys} -ctv {values}"
        return {
            "limit": self.memory,
            "context": self.context,
            "cache": cache,
            "why": self.why,
            "judged_after": self.judged or None,
            "predicted": self.predicted(path.stat().st_size),
            "measured": measured.peak if measured else None,
            "interpreter": measured.interpreter if measured else None,
            "tries": self.tries,
            "rooms": [o.to_dict() for o in self.options],
            "kl_with_cache": kl,
            "command": f"llama-server -m {path.name} --no-mmap -np 1 -c {self.context}{flags}",
        }
