"""What types of keys and values cost by depth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.runtimes.cache_types import cache_name


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthScore:
    """What a cache costs after so many tokens.

    Attributes:
        depth: Tokens in the cache at the end of the stretch that was scored.
        kl: Mean KL divergence of the stretch from the same file with keys and values in float16.
        kl_ci: Its 95 % interval over texts; None for too few of them.
        top1: Share of positions at which both find the same token likeliest.
    """

    depth: int
    kl: float
    kl_ci: tuple[float, float] | None
    top1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedleScore:
    """The answer to a question about a fact in the text.

    Attributes:
        depth: Tokens before the fact.
        answer: What was answered.
        found: Whether that is right.
        same: Whether it is what float16 answers.
    """

    depth: int
    answer: str
    found: bool
    same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheScore:
    """One pair of types.

    Attributes:
        keys: The type of keys.
        values: That of values.
        kv_bytes: Bytes of the cache for the whole context.
        depths: The divergence by depth, the last at the end of the context.
        needles: Answers about facts in the text.
    """

    keys: str
    values: str
    kv_bytes: int
    depths: list[DepthScore]
    needles: list[NeedleScore]

    @property
    def name(self) -> str:
        """The pair as `--kv-types` takes it."""
        return cache_name(self.keys, self.values)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LongContextResult(Result):
    """Types of keys and values, judged at the end of a long context.

    Attributes:
        path: The file.
        context: Tokens of each text.
        windows: Texts that were read.
        text: Name of the text.
        exact: Bytes of a cache in float16, and what it answers.
        caches: The types that were asked for, in that order.
        seconds: Time it took.
        notes: Remarks.
    """

    path: str
    context: int
    windows: int
    text: str
    exact: CacheScore
    caches: list[CacheScore]
    seconds: float
    notes: list[str] = field(default_factory=list[str])

    def headline(self) -> str:
        """What each costs at the end."""
        each = ", ".join(f"{c.name} {c.depths[-1].kl:.5f}" for c in self.caches)
        return f"{Path(self.path).name}: KL after {self.context} tokens {each}"

    def tables(self) -> list[ResultTable]:
        """A row for each pair of types."""
        depths = [score.depth for score in self.caches[0].depths]
        columns = ["keys", "values", "cache>", *(f"KL at {depth}>" for depth in depths)]
        columns += ["same token at the end>", "needles>"]
        return [ResultTable(columns=columns, rows=[row(asdict(cache)) for cache in self.caches])]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def row(cache: dict[str, Any]) -> list[str]:
    """Cells of a `CacheScore` as JSON has it: types, bytes, each depth, the end, needles."""
    needles = cache["needles"]
    same = sum(needle["same"] for needle in needles)
    return [
        cache["keys"],
        cache["values"],
        format_size(cache["kv_bytes"]),
        *(f"{score['kl']:.5f}" for score in cache["depths"]),
        f"{cache['depths'][-1]['top1']:.1%}",
        f"{same} of {len(needles)} as f16" if needles else "–",
    ]
