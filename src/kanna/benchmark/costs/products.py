"""Costs of encodings by products with single matrices, each of a shape of the model.

A product is timed over copies of a matrix that together are as large as the model, or lie in no
cache, beside the same in a usual encoding, in turns; of several rounds the fastest counts. What no
matrix accounts for is what whole artefacts usually take beyond their products, and how far both are
from that is the error of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any, Protocol

from kanna import conversion, encodings, formats, runtimes
from kanna._util.processes import ask
from kanna.benchmark.costs.base import LEAST_ERROR, Clock, Costs, the_cpu
from kanna.benchmark.load import LoadMeter
from kanna.conversion import ConversionRequest, WriteOptions
from kanna.errors import UnsupportedError
from kanna.families import hf_names
from kanna.hardware import measured_speed
from kanna.hardware.cpu import cpu
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.token_work import TensorWork, matrix_work
from kanna.model import Model, columns
from kanna.plan import Plan, roles
from kanna.plan.presets import rule_for
from kanna.sources import Source

ROUNDS, TOKENS = 7, (12, 48)
WHOLE_ROUNDS = {False: 5, True: 3}
"""Of whole artefacts, by whether their runtime is slow on a CPU."""
PROMPTS = {False: 512, True: 32}
"""Tokens of a prompt that they read, in the same way."""
WEIGHTS = {False: 48_000_000, True: 1_000_000}
"""Weights that are multiplied in a round at most, in the same way; 24 MB of 4 bits and more lie in
few caches beside their activations."""
_LEAST = 1e-3
"""Microseconds per million weights: noise makes no encoding free."""


class Multiplier(Protocol):
    """Makes a product with matrices of a shape in the runtime of a format."""

    def __call__(
        self, encoding: str, rows: int, cols: int, *, copies: int, threads: int
    ) -> Callable[[int], object]:
        """A function that multiplies so many tokens with every copy, and waits for the results.

        Args:
            encoding: Of the matrix.
            rows: Of the matrix.
            cols: Of the matrix.
            copies: That lie apart in memory.
            threads: That multiply.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductCosts(Costs):
    """How costs are measured where products can be made one by one.

    Attributes:
        multiplier: Makes the products.
    """

    multiplier: Multiplier


def product_costs(
    format: str,
    multiplier: Multiplier,
    encodings: Callable[[Model], Sequence[str]],
    backend: Callable[[], str] = the_cpu,
) -> ProductCosts:
    """The record of a format.

    Args:
        format: Its name.
        multiplier: Makes products in its runtime.
        encodings: Those of a model that `optimize` looks at.
        backend: Where its runtime multiplies here.
    """
    runtime = runtimes.get(formats.get(format).runtime)
    return ProductCosts(
        encodings=encodings,
        open=partial(ProductBench, format, encodings),
        require=runtime.load,
        backend=backend,
        multiplier=multiplier,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """Microseconds per million weights of an encoding at a shape.

    Attributes:
        token: Of a generated token.
        slowest: The same in the slowest round.
        prompt: Of a token that is read.
    """

    token: float
    slowest: float
    prompt: float


class ProductBench:
    """Measures products at the shapes of one model; see `CostBench`."""

    def __init__(
        self,
        format: str,
        listed: Callable[[Model], Sequence[str]],
        source: Source,
        model: Model,
        threads: int,
        folder: Path,
    ) -> None:
        self._record, self._source, self._model = formats.get(format), source, model
        self._threads, self._folder = threads, folder
        self._slow = runtimes.get(self._record.runtime).slow_on_cpu
        self._work = {n: w for n, w in matrix_work(model).items() if w.weights and w.shape}
        self._weights = max(1, round(sum(w.weights for w in self._work.values())))
        self._shapes = list(dict.fromkeys(w.shape for w in self._work.values()))
        self._listed = [e for e in listed(model) if self._held(e)]
        packed = [e for e in self._listed if encodings.get(e).block > 1]
        if not packed:
            raise UnsupportedError(
                f"no encoding of {self._record.title} holds a matrix of this model",
                todo="name costs of encodings: --speeds FILE",
            )
        self.usual = max(packed, key=lambda e: len(self._held(e)))
        widest = max(packed, key=lambda e: encodings.get(e).bits)
        self._whole = list(dict.fromkeys([self.usual, widest]))

    def _held(self, encoding: str) -> list[str]:
        """Shapes whose rows are whole groups of an encoding."""
        block = encodings.get(encoding).block
        return [s for s in self._shapes if _sides(s)[1] % block == 0]

    def fits(self, encoding: str) -> bool:
        """Whether a matrix of the model can have an encoding."""
        return bool(self._held(encoding))

    def _timed(self, names: Sequence[str], shapes: Sequence[str]) -> list[list[_Cost]]:
        """Costs of encodings at shapes, in turns at each shape: by encoding, then by shape."""
        clock = Clock(LoadMeter(), self._threads)
        task = {
            "format": self._record.name,
            "names": list(names),
            "shapes": [_sides(s) for s in shapes],
            "weights": min(WEIGHTS[self._slow], self._weights),
            "rounds": ROUNDS,
            "threads": self._threads,
        }
        doing = f"timing {names[-1]} in {self._record.runtime_title}"
        times: dict[str, Any] = ask("kanna.benchmark.costs.product_child", task, doing)
        taken = clock.choose()
        return [
            [_cost([taken(b) for b in t["token"]], [taken(b) for b in t["prompt"]]) for t in those]
            for those in times["times"]
        ]

    def base(self) -> EncodingSpeeds:
        """A table with the costs of the usual encoding."""
        shapes = self._held(self.usual)
        [costs] = self._timed([self.usual], shapes)
        table = EncodingSpeeds(
            machine=cpu().model,
            format=self._record.name,
            build=self._record.build(),
            threads=self._threads,
            shapes=measured_speed.shapes_mark(self._model),
            token=0.0,
            generation={},
        )
        return self._with(table, self.usual, dict(zip(shapes, costs, strict=True)))

    def added(self, table: EncodingSpeeds, name: str) -> EncodingSpeeds:
        """The table with one more encoding, by how much slower than the usual one it is."""
        usual = table.by_shape, table.prompt_by_shape
        beside = [s for s in self._held(name) if self.usual in usual[0].get(s, {})]
        costs: dict[str, _Cost] = {}
        if beside:
            of_usual, of_name = self._timed([self.usual, name], beside)
            for shape, one, other in zip(beside, of_usual, of_name, strict=True):
                known = usual[0][shape][self.usual] / one.token
                costs[shape] = _Cost(
                    token=other.token * known,
                    slowest=other.slowest * known,
                    prompt=other.prompt * usual[1][shape][self.usual] / one.prompt,
                )
        alone = [s for s in self._held(name) if s not in beside]
        if alone:
            [those] = self._timed([name], alone)
            costs |= dict(zip(alone, those, strict=True))
        return self._with(table, name, costs)

    def _with(self, table: EncodingSpeeds, name: str, costs: Mapping[str, _Cost]) -> EncodingSpeeds:
        """The table with the costs of an encoding, also on average over the model."""
        works = [w for w in self._work.values() if w.shape in costs]

        def average(cost: Callable[[_Cost], float], those: Sequence[TensorWork]) -> float:
            weights = sum(w.weights for w in those)
            return sum(cost(costs[w.shape]) * w.weights for w in those) / weights

        heads = [w for w in works if w.head]
        layers = [w for w in works if not w.head] or works
        token = average(lambda c: c.token, layers)
        slowest = average(lambda c: c.slowest, layers)
        return replace(
            table,
            generation={**table.generation, name: token},
            spread={**table.spread, name: (token, max(token, slowest))},
            prompt={**table.prompt, name: average(lambda c: c.prompt, layers)},
            head={**table.head, name: average(lambda c: c.token, heads)} if heads else table.head,
            by_shape=_merged(table.by_shape, name, {s: c.token for s, c in costs.items()}),
            prompt_by_shape=_merged(
                table.prompt_by_shape, name, {s: c.prompt for s, c in costs.items()}
            ),
        )

    def finished(self, table: EncodingSpeeds) -> EncodingSpeeds:
        """The table with what no matrix accounts for, and its error, by whole artefacts."""
        chosen = [self._written(name) for name in self._whole]
        clock, prompt = Clock(LoadMeter(), self._threads), self._prompt()
        task = {
            "paths": [str(self._folder / name) for name in self._whole],
            "prompts": [True] * len(chosen),
            "prompt": prompt,
            "tokens": TOKENS[0],
            "most": TOKENS[1],
            "rounds": WHOLE_ROUNDS[self._slow],
            "threads": self._threads,
        }
        times = ask("kanna.benchmark.encoding_child", task, "timing whole folders")
        taken = clock.choose()
        wrote = [median(taken(both) for both in rounds) for rounds in times["generation"]]
        read = [median(taken(both) for both in rounds) for rounds in times["prompt"]]
        bare = replace(table, token=0.0, prompt_token=0.0)
        alone = [bare.predict((c[n], w) for n, w in self._work.items() if n in c) for c in chosen]
        token, scale = _beyond(wrote, [p.generation for p in alone])
        prompt_token, prompt_scale = _beyond(read, [p.prompt for p in alone])
        worst = LEAST_ERROR
        for seconds, speed in zip(wrote, alone, strict=True):
            ratio = seconds / (scale / (speed.generation or 1e30) + token)
            worst = max(worst, ratio - 1, 1 / ratio - 1)
        scaled = bare.slower(scale, prompt=prompt_scale, error=round(worst, 3))
        return replace(scaled, token=token * 1e6, prompt_token=prompt_token * 1e6)

    def _prompt(self) -> int:
        most = PROMPTS[self._slow]
        trained = self._model.largest("{arch}.context_length", most + TOKENS[1] + 32)
        return max(16, min(most, trained - TOKENS[1] - 32))

    def _written(self, name: str) -> dict[str, str]:
        """Write the artefact whose matrices have one encoding; returns tensor → encoding."""
        floating = next((e for e in self._listed if encodings.get(e).block == 1), "f32")
        block = encodings.get(name).block
        rules = [
            rule_for(n, name if columns(t) % block == 0 else floating, "nearest")
            for n, t in self._model.tensors.items()
            if roles.quantizable(t)
        ]
        plan = Plan(name=name, encoding=floating, rules=rules)
        begin = conversion.get(self._record.name).begin
        work = begin(self._source, self._folder / name, ConversionRequest(plan=plan))
        result = work.describe()
        options = WriteOptions(threads=self._threads, overwrite=True)
        work.check(result, overwrite=True)
        work.write(options)
        ours = {theirs: own for own, theirs in hf_names(self._model).items()}
        chosen: dict[str, str] = {}
        for tensor in result.tensors:
            chosen[ours.get(tensor["name"]) or tensor["name"]] = tensor["encoding"]
        return chosen


def _beyond(whole: Sequence[float], speeds: Sequence[float | None]) -> tuple[float, float]:
    """Seconds that no product accounts for, and what products cost as a share of their costs alone.

    Products of few tokens read a matrix for these alone. Where whole artefacts take less than their
    products, these cost less in them.

    Args:
        whole: Seconds per token of artefacts.
        speeds: Tokens per second of their products alone.
    """
    products = [1 / speed if speed else 0.0 for speed in speeds]
    left = mean(whole) - mean(products)
    return (left, 1.0) if left > 0 else (0.0, mean(whole) / mean(products))


def _sides(shape: str) -> tuple[int, int]:
    rows, _, cols = shape.partition("x")
    return int(rows), int(cols)


def _cost(token: Sequence[float], prompt: Sequence[float]) -> _Cost:
    """Costs of seconds per weight."""
    return _Cost(
        token=max(min(token) * 1e12, _LEAST),
        slowest=max(max(token) * 1e12, _LEAST),
        prompt=max(min(prompt) * 1e12, _LEAST),
    )


def _merged(
    known: Mapping[str, Mapping[str, float]], name: str, costs: Mapping[str, float]
) -> dict[str, Mapping[str, float]]:
    return {**known, **{s: {**known.get(s, {}), name: cost} for s, cost in costs.items()}}
