"""What types of cached keys and values cost at the end of long contexts.

The same file with keys and values in float16 is the reference: nothing but the cache differs. What
a cache costs after 512 tokens says little about what it costs after thousands.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanna import runtimes
from kanna._util import own_files
from kanna._util.bars import shown
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna.errors import KannaError, NotFoundError, UsageError
from kanna.evaluation.divergence import Scores
from kanna.evaluation.long_context import depths, needles
from kanna.evaluation.long_context.depths import Span
from kanna.evaluation.long_context.needles import NeedlePrompt
from kanna.evaluation.long_context.result import (
    CacheScore,
    DepthScore,
    LongContextResult,
    NeedleScore,
)
from kanna.evaluation.stats import mean_ci
from kanna.evaluation.trained_length import require_trained
from kanna.evaluation.windows import cut, read_text
from kanna.runtimes.cache_types import cache_name, cache_types
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import locate, packages

if TYPE_CHECKING:
    from kanna.evaluation.long_context.depths import LongReader

CONTEXT = 8192
_EXACT = "f16"
_GROWN = 2.0
"""How many times the divergence of a short context is worth a remark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """What every cache reads.

    Attributes:
        ids: Texts of one length, the last with facts in it.
        depths: Where they are judged.
        spans: The stretches for that.
        asked: Questions about them, each after the beginning of the last text.
    """

    ids: list[list[int]]
    depths: list[int]
    spans: list[Span]
    asked: list[NeedlePrompt]

    @property
    def steps(self) -> int:
        """Tokens that each cache reads, for the bar; a question counts as one."""
        return sum(map(len, self.ids)) + len(self.asked)


def evaluate_caches(
    artefact: str | Path,
    kv_types: str | Sequence[str],
    *,
    text: str | Path | None = None,
    windows: int | None = None,
    context: int | None = None,
    threads: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> LongContextResult:
    """Judge types of cached keys and values by depth, against float16; see `kanna.evaluate`."""
    begin, progress = time.perf_counter(), shown(progress)
    names = _names(kv_types)
    named = None if text is None else read_text(text)  # refused before anything is fetched
    path = locate(artefact, offline=offline, progress=progress)
    if not path.exists():
        raise NotFoundError(absent(path), expected="a .gguf file")
    if (runtime := runtimes.of(path)).name != RUNTIME.name:
        raise UsageError(
            f"{path} runs in {runtime.title}, whose cache has no types", expected="a .gguf file"
        )
    trained = require_trained(path, context)
    content, title = named or read_text(packages.own_text(path), offline=offline)
    context = context or CONTEXT
    with RUNTIME.open(path, context=64, threads=threads, vocab_only=True) as engine:
        cuts = cut(
            engine,
            content,
            context=context,
            windows=windows or 1,
            default=False,
            trained=trained,
        )
        texts = _texts(engine, cuts.ids)
    length = len(texts.ids[0])
    kv_bytes = {
        name: _cache_bytes(path, name, length, threads) for name in dict.fromkeys([_EXACT, *names])
    }
    with own_files.scratch(packages.cache_dir(), "long-context") as scratch:
        run = _CacheRun(path, texts, threads, progress, scratch)
        progress.start("keys and values", texts.steps * (len(names) + 1), "tokens")
        exact = replace(run.read_exact(), kv_bytes=kv_bytes[_EXACT])
        caches = [replace(run.score(name, exact), kv_bytes=kv_bytes[name]) for name in names]
        progress.finish()
    return LongContextResult(
        path=str(path),
        context=length,
        windows=len(texts.ids),
        text=title,
        exact=exact,
        caches=caches,
        seconds=time.perf_counter() - begin,
        notes=[*cuts.notes, *_remarks(exact, caches)],
    )


def refuse_beside(others: Mapping[str, Any]) -> None:
    """Raise UsageError where options of another evaluation are given; None: not given."""
    if given := [f"--{name}" for name, value in others.items() if value is not None]:
        raise UsageError(
            f"--kv-types with {' and '.join(given)}",
            expected="one of them: a cache is judged against float16 of the same file",
        )


def _names(kv_types: str | Sequence[str]) -> list[str]:
    """The pairs that are asked for, each once."""
    asked = kv_types.split(",") if isinstance(kv_types, str) else kv_types
    names = [cache_name(*cache_types(one)) for one in asked if one.strip()]
    if not names:
        raise UsageError(
            "no types of keys and values", expected="such as q8_0, or KEYS:VALUES as q8_0:q4_0"
        )
    return list(dict.fromkeys(names))


def _texts(engine: LongReader, ids: list[list[int]]) -> _Texts:
    length = len(ids[0])
    if length < 2 * depths.STRETCH:
        raise UsageError(
            f"{length} tokens to judge a cache on",
            expected=f"at least {2 * depths.STRETCH}, better thousands",
            todo="give a longer --text, or a larger --context",
        )
    judged_at = depths.depths(length)
    # Questions go on from the text that was read last.
    *plain, last = ids
    with_facts, asked = needles.hide(engine, last, length)
    ids = [*plain, with_facts]
    return _Texts(ids=ids, depths=judged_at, spans=depths.spans_at(judged_at), asked=asked)


def _cache_bytes(path: Path, name: str, context: int, threads: int | None) -> int:
    """What a cache takes; UsageError where llama.cpp has none of these types for the model."""
    with RUNTIME.open(path, context=context, threads=threads, cache=name) as engine:
        try:
            return engine.memory()["kv"]
        except KannaError as error:
            if name == _EXACT:
                raise
            raise UsageError(
                f"llama.cpp has no cache of {name} for {path.name}: {error.found}",
                expected="types whose blocks of 32 values divide the heads of the model",
                todo="leave it out",
            ) from error


class _CacheRun:
    """One file, read with one cache after another."""

    def __init__(
        self, path: Path, texts: _Texts, threads: int | None, progress: Progress, scratch: Path
    ) -> None:
        self._path, self._texts, self._threads = path, texts, threads
        self._progress, self._scratch = progress, scratch
        self._kept: list[list[Path]] = []

    def _open(self, cache: str) -> LongReader:
        context = len(self._texts.ids[0])
        return RUNTIME.open(self._path, context=context, threads=self._threads, cache=cache)

    def read_exact(self) -> CacheScore:
        """Keep the logits of the cache in float16; its answers, and no divergence."""
        spans = self._texts.spans
        with self._open(_EXACT) as engine:
            for number, ids in enumerate(self._texts.ids):
                self._kept.append(
                    depths.keep(
                        engine, ids, spans, self._scratch, str(number), progress=self._progress
                    )
                )
            replies = self._needles(engine, _EXACT, None)
        same = [DepthScore(depth=d, kl=0.0, kl_ci=None, top1=1.0) for d in self._texts.depths]
        return CacheScore(keys=_EXACT, values=_EXACT, kv_bytes=0, depths=same, needles=replies)

    def score(self, cache: str, exact: CacheScore) -> CacheScore:
        """Divergences and answers with another cache."""
        spans = self._texts.spans
        scores: list[list[Scores]] = []
        with self._open(cache) as engine:
            for ids, kept in zip(self._texts.ids, self._kept, strict=True):
                scores.append(
                    depths.against(engine, ids, spans, kept, cache=cache, progress=self._progress)
                )
            replies = self._needles(engine, cache, exact)
        by_depth: list[DepthScore] = []
        for depth, of_texts in zip(self._texts.depths, zip(*scores, strict=True), strict=True):
            kl, kl_ci = mean_ci(np.array([s.kl.mean() for s in of_texts]), low=0)
            top1 = float(np.mean([s.top1.mean() for s in of_texts]))
            by_depth.append(DepthScore(depth=depth, kl=kl, kl_ci=kl_ci, top1=top1))
        keys, values = cache_types(cache)
        return CacheScore(keys=keys, values=values, kv_bytes=0, depths=by_depth, needles=replies)

    def _needles(
        self, engine: LongReader, cache: str, exact: CacheScore | None
    ) -> list[NeedleScore]:
        replies: list[NeedleScore] = []
        asked = self._texts.asked
        for number, (prompt, answer) in enumerate(
            zip(asked, needles.answers(engine, asked), strict=True)
        ):
            replies.append(
                NeedleScore(
                    depth=prompt.depth,
                    answer=answer,
                    found=needles.is_found(prompt, answer),
                    same=exact is None or answer == exact.needles[number].answer,
                )
            )
            self._progress.advance(1, cache)
        return replies


def _remarks(exact: CacheScore, caches: Sequence[CacheScore]) -> list[str]:
    notes: list[str] = []
    known = sum(needle.found for needle in exact.needles)
    if not exact.needles:
        notes.append("the context is too short to hide facts in: no needles")
    elif known < len(exact.needles):
        notes.append(
            f"with float16 the model itself finds {known} of {len(exact.needles)} facts: that an "
            "answer is the same says less"
        )
    for cache in caches:
        first, last = cache.depths[0], cache.depths[-1]
        if last.depth > first.depth and last.kl > _GROWN * first.kl > 0:
            notes.append(
                f"{cache.name} costs {last.kl / first.kl:.1f} times as much after {last.depth} "
                f"tokens as after {first.depth}"
            )
    return notes
