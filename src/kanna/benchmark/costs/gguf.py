"""What every encoding costs a token in llama.cpp on this machine, at the shapes of a model.

Files of the model's own shapes with values of chance (skeleton.py) are timed: two that differ in
layers alone tell what a weight costs and what no weight accounts for, in one encoding; each other
encoding is timed beside them, in turns, once in the layers and once in the head, and its cost is
what it adds. Of several rounds the fastest counts: other programs make them slower, never faster.
Plans of presets, whole, are timed at the end: what the table is off by for all of them, it is
scaled by, and how far each is from that is its error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from kanna import encodings, libllama
from kanna._util.processes import ask
from kanna.benchmark.costs.base import LEAST_ERROR, Clock, Costs
from kanna.benchmark.load import LoadMeter
from kanna.benchmark.skeleton import Skeletons, matrices_of
from kanna.errors import KannaError, UnsupportedError
from kanna.formats.gguf import FORMAT
from kanna.hardware import measured_speed
from kanna.hardware.cpu import cpu
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.token_work import TensorWork, matrix_work
from kanna.model import Model
from kanna.sources import Source

BASE = "q8_0"
"""Beside which the others are timed; every row of 32 values can have it."""
WEIGHTS = 64_000_000
"""Weights in layers of a timed file at most, so that they lie in no cache; one layer at least."""
ROUNDS, TOKENS, PROMPT = 5, (12, 64), 512
_LEAST = 0.02
"""Of the cost of BASE: noise makes no encoding free."""
_LEAST_HEAD = 0.25
"""Of what a weight costs in the layers, with all that goes on there, one costs in the head."""
_PRESETS = ("Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0")
"""Whole files that the table is tried on; those that the shapes refuse are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """Seconds per token of a file, round by round."""

    generation: list[float]
    prompt: list[float]


def usual_encodings(_: Model) -> list[str]:
    """Those that `optimize` looks at and presets are made of."""
    return [*encodings.candidates(), "bf16"]


class SkeletonBench:
    """The files of one model, and what they take."""

    def __init__(self, source: Source, model: Model, threads: int, folder: Path) -> None:
        self._skeletons, self._model, self._threads = Skeletons(source, model), model, threads
        self.usual, self.folder = BASE, folder
        self._work = {n: w for n, w in matrix_work(model).items() if w.weights}
        layers = self._skeletons.layers
        each = sum(w.weights for w in self._layers(layers).values()) / max(layers, 1)
        self._long = max(min(layers, int(WEIGHTS // max(each, 1))), min(2, layers))
        self._short = max(1, self._long // 3)
        self._columns = matrices_of(model, layers)
        if not any(self.holds(BASE, name) for name in self._work):
            raise UnsupportedError(
                "rows of this model are no whole blocks of 32 values",
                todo="name costs of encodings: --speeds FILE",
            )
        trained = model.largest("{arch}.context_length", PROMPT + 64)
        self._prompt = max(16, min(PROMPT, trained - TOKENS[1] - 32))

    def holds(self, encoding: str, name: str) -> bool:
        """Whether the rows of a matrix are whole blocks."""
        return self._columns[name] % encodings.get(encoding).block == 0

    def fits(self, encoding: str) -> bool:
        """Whether a matrix in the layers can have an encoding."""
        return any(self.holds(encoding, n) for n in self._layers(self._skeletons.layers))

    def _layers(self, layers: int) -> dict[str, TensorWork]:
        names = matrices_of(self._model, layers)
        return {n: w for n, w in self._work.items() if n in names and not w.head}

    def _weights(self, layers: int, encoding: str = BASE) -> float:
        """Weights of so many layers in an encoding."""
        those = self._layers(layers)
        return sum(w.weights for n, w in those.items() if self.holds(encoding, n))

    def _head(self, encoding: str = BASE) -> float:
        heads = {n: w for n, w in self._work.items() if w.head and self.holds(encoding, n)}
        return sum(w.weights for w in heads.values())

    def _file(self, layers: int, inside: str = BASE, head: str = BASE) -> Path:
        """A file with layers in one encoding and the head in another, where rows allow it."""
        path = self.folder / f"{layers}-{inside}-{head}.gguf"
        if not path.exists():
            chosen = {n: BASE for n in self._work if self.holds(BASE, n)}
            for name, work in self._work.items():
                wanted = head if work.head else inside
                if self.holds(wanted, name):
                    chosen[name] = wanted
            self._skeletons.write(path, layers, chosen)
        return path

    def _timed(self, files: Mapping[Path, bool], rounds: int | None = None) -> list[_Times]:
        """Seconds per token of files, in turns; of processors where other programs keep them busy.

        Args:
            files: Each with whether a prompt is timed, too.
            rounds: None: ROUNDS.
        """
        clock = Clock(LoadMeter(), self._threads)
        task = {
            "paths": [str(path) for path in files],
            "prompts": list(files.values()),
            "prompt": self._prompt,
            "tokens": TOKENS[0],
            "most": TOKENS[1],
            "rounds": rounds or ROUNDS,
            "threads": self._threads,
        }
        times: dict[str, Any] = ask("kanna.benchmark.encoding_child", task, "timing encodings")
        taken = clock.choose()
        return [
            _Times(
                generation=[taken(both) for both in times["generation"][at]],
                prompt=[taken(both) for both in times["prompt"][at]],
            )
            for at in range(len(files))
        ]

    def base(self) -> EncodingSpeeds:
        """What a weight costs in BASE, and what no weight accounts for, by two files."""
        files = {self._file(self._long): True, self._file(self._short): True}
        long, short = self._timed(files, 2 * ROUNDS)
        most, head = self._weights(self._long), self._head()
        more = most - self._weights(self._short)

        def line(of_long: float, of_short: float, beside: float) -> tuple[float, float]:
            """Seconds of a weight in the layers, and of what is no layer."""
            highest = of_long / (most + _LEAST_HEAD * beside)
            slope = (of_long - of_short) / more if more > 0 else of_long / (most + beside)
            slope = min(max(slope, 0.1 * highest), highest)
            return slope, max(0.0, of_long - slope * most)

        cost, rest = line(min(long.generation), min(short.generation), head)
        of_head = min(cost, rest / head) if head else cost
        read, prompt_token = line(min(long.prompt), min(short.prompt), 0.0)
        slowest = max(long.generation) / min(long.generation)
        return EncodingSpeeds(
            machine=cpu().model,
            build=FORMAT.build(),
            threads=self._threads,
            shapes=measured_speed.shapes_mark(self._model),
            token=max(0.0, rest - of_head * head) * 1e6,
            prompt_token=prompt_token * 1e6,
            generation={BASE: cost * 1e12},
            head={BASE: of_head * 1e12},
            prompt={BASE: read * 1e12},
            spread={BASE: (cost * 1e12, slowest * cost * 1e12)},
        )

    def added(self, table: EncodingSpeeds, name: str) -> EncodingSpeeds:
        """The table with one more encoding, by what it adds to files in BASE."""
        files = {self._file(self._long): True, self._file(self._long, inside=name): True}
        head = self._head(name)
        if head:
            files |= {self._file(self._short): False, self._file(self._short, head=name): False}
        base, inside, *heads = self._timed(files)
        weights, usual = self._weights(self._long, name), table.generation[BASE]
        whole = table.token + self._weights(self._long) * usual * 1e-6
        whole += self._head() * table.head[BASE] * 1e-6
        at_least, at_most = min(base.generation), max(inside.generation)
        costs = [
            max(usual + whole * (seconds / at_least - 1) / weights * 1e6, _LEAST * usual)
            for seconds in (min(inside.generation), at_most)
        ]
        read = table.prompt_token + self._weights(self._long) * table.prompt[BASE] * 1e-6
        slower = min(inside.prompt) / min(base.prompt) - 1
        prompt = table.prompt[BASE] + read * slower / weights * 1e6
        of_head = table.head[BASE]
        if heads:
            ratio = min(heads[1].generation) / min(heads[0].generation) - 1
            short = whole - (self._weights(self._long) - self._weights(self._short)) * usual * 1e-6
            of_head = max(of_head + short * ratio / head * 1e6, _LEAST * of_head)
        self._file(self._long, inside=name).unlink(missing_ok=True)
        self._file(self._short, head=name).unlink(missing_ok=True)
        return replace(
            table,
            generation={**table.generation, name: costs[0]},
            spread={**table.spread, name: (costs[0], costs[1])},
            prompt={**table.prompt, name: max(prompt, _LEAST * table.prompt[BASE])},
            head={**table.head, name: of_head} if heads else table.head,
        )

    def finished(self, table: EncodingSpeeds) -> EncodingSpeeds:
        """The table scaled to files of presets, with how far it is from them at most."""
        files: dict[Path, dict[str, str]] = {}
        for preset in _PRESETS:
            try:
                chosen = self._skeletons.preset(preset)
            except KannaError:
                continue
            path = self.folder / f"{preset}.gguf"
            self._skeletons.write(path, self._long, chosen)
            files[path] = chosen
        times = self._timed(dict.fromkeys(files, False))
        here = self._layers(self._long) | {n: w for n, w in self._work.items() if w.head}
        ratios: list[float] = []
        for chosen, taken in zip(files.values(), times, strict=True):
            speed = table.predict((chosen[n], w) for n, w in here.items())
            if speed.generation is not None:
                ratios.append(speed.generation * median(taken.generation))
        # The fastest round of a cost is nobody's usual one, and costs of two files do not add up.
        usual = geometric_mean(ratios) if ratios else 1.0
        worst = max((max(r / usual, usual / r) - 1 for r in ratios), default=0.0)
        return table.slower(usual, error=round(max(worst, LEAST_ERROR), 3))


COSTS = Costs(encodings=usual_encodings, open=SkeletonBench, require=libllama.library)
