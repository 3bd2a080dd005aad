"""What every encoding costs a token: a table that was measured, or one made of a roofline.

A token takes what no weight accounts for, and for every matrix its weights times the cost of their
encoding. That is linear, so that a plan can be chosen under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import geometric_mean
from typing import Any

from kanna import encodings
from kanna.errors import UnsupportedError
from kanna.hardware.roofline import OVERHEAD, PredictedSpeed
from kanna.hardware.targets.base import TargetChoice
from kanna.hardware.token_work import TensorWork

KIND = "encoding-speeds"
"""What a file of them says it is."""
LEAST_ROOFLINE_ERROR = 0.3
"""Of what bytes alone predict; profiles of devices that were measured say as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSpeeds:
    """Microseconds of one token on one machine.

    Attributes:
        machine: The processor, or the device.
        format: Whose runtime multiplied.
        backend: The processor that it multiplied on, as a target names it.
        build: What multiplied: packages of a runtime with their versions; "" of a roofline.
        threads: How many; 0: not known.
        shapes: Mark of the shapes that were multiplied; "" where they do not count.
        token: What no weight accounts for, in microseconds of a generated token.
        prompt_token: The same of one of 512 tokens that are read.
        generation: By encoding: microseconds per million weights of a generated token.
        head: The same of the matrix that gives the logits, where it was measured apart.
        prompt: The same of a token that is read; {} where it is not known.
        spread: By encoding, the lowest and highest cost of a generated token over the rounds.
        by_shape: The same as `generation` for matrices of a shape, by shape and encoding; {} where
            shapes were not told apart.
        prompt_by_shape: The same as `prompt`.
        error: Relative error of predictions: the truth is expected between a / (1 + error) and
            a * (1 + error); None: not known.
        basis: `measured` or `roofline`.
    """

    machine: str
    token: float
    generation: Mapping[str, float]
    build: str = ""
    threads: int = 0
    shapes: str = ""
    prompt_token: float = 0.0
    head: Mapping[str, float] = field(default_factory=dict[str, float])
    prompt: Mapping[str, float] = field(default_factory=dict[str, float])
    spread: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )
    by_shape: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict[str, Mapping[str, float]]
    )
    prompt_by_shape: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict[str, Mapping[str, float]]
    )
    error: float | None = None
    basis: str = "measured"
    format: str = "gguf"
    backend: str = "cpu"

    def seconds(self, encoding: str, work: TensorWork) -> float | None:
        """What a tensor adds to the time of a generated token; None: the encoding is not known."""
        cost = self.by_shape.get(work.shape, {}).get(encoding)
        cost = self.head.get(encoding) if cost is None and work.head else cost
        cost = self.generation.get(encoding) if cost is None else cost
        return None if cost is None else cost * work.weights * 1e-12

    def _prompt_cost(self, encoding: str, work: TensorWork) -> float | None:
        cost = self.prompt_by_shape.get(work.shape, {}).get(encoding)
        return self.prompt.get(encoding) if cost is None else cost

    def predict(self, tensors: Iterable[tuple[str, TensorWork]]) -> PredictedSpeed:
        """Tokens per second of a file, at a short context.

        Args:
            tensors: Encoding and work of everything that is multiplied; None is predicted where
                one of the encodings is not known.
        """
        parts = [(self.seconds(e, w), self._prompt_cost(e, w), w) for e, w in tensors if w.weights]
        generation = prompt = None
        if parts and all(s is not None for s, _, _ in parts):
            generation = 1 / (self.token * 1e-6 + sum(s or 0.0 for s, _, _ in parts))
        if parts and all(p is not None or w.head for _, p, w in parts):
            read = sum((p or 0.0) * w.weights for _, p, w in parts if not w.head)
            prompt = 1 / (self.prompt_token * 1e-6 + read * 1e-12)
        known = generation is not None or prompt is not None
        return PredictedSpeed(
            generation=generation, prompt=prompt, error=self.error if known else None
        )

    def with_roofline(self, names: Iterable[str]) -> EncodingSpeeds:
        """The table with encodings that nobody measured, by the speed of those that were.

        A token takes their bytes ÷ the bandwidth that the measured ones reached, the geometric mean
        of it, and the error is what that is off by for these: often a factor of two.

        Args:
            names: Encodings that the table should have; those that it has stay as they are.
        """
        absent = [name for name in names if name not in self.generation]
        per_bit = [cost / encodings.get(name).bits for name, cost in self.generation.items()]
        usual = geometric_mean(per_bit)
        worst = max(max(one / usual, usual / one) for one in per_bit) - 1
        prompt = dict.fromkeys(absent, geometric_mean(self.prompt.values())) if self.prompt else {}
        return replace(
            self,
            generation={**self.generation, **{n: usual * encodings.get(n).bits for n in absent}},
            prompt={**self.prompt, **prompt},
            error=max(worst, LEAST_ROOFLINE_ERROR, self.error or 0.0) if absent else self.error,
        )

    def slower(self, factor: float, *, prompt: float = 1.0, error: float) -> EncodingSpeeds:
        """The table with every cost of a generated token that many times as high.

        Args:
            factor: Above 1 where tokens take longer.
            prompt: The same for tokens that are read.
            error: Of the new table.
        """

        def times(costs: Mapping[str, float], factor: float = factor) -> dict[str, float]:
            return {name: cost * factor for name, cost in costs.items()}

        read = self.prompt_by_shape.items()
        return replace(
            self,
            token=self.token * factor,
            prompt_token=self.prompt_token * prompt,
            generation=times(self.generation),
            head=times(self.head),
            prompt=times(self.prompt, prompt),
            spread={n: (low * factor, high * factor) for n, (low, high) in self.spread.items()},
            by_shape={shape: times(costs) for shape, costs in self.by_shape.items()},
            prompt_by_shape={shape: times(costs, prompt) for shape, costs in read},
            error=error,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"kind": KIND} | asdict(self)


COST_COLUMNS = ("encoding", "bits>", "token µs>", "range", "head µs>", "prompt µs>")


def cost_title(table: Mapping[str, Any]) -> str:
    """What a table is of, for people.

    Args:
        table: What `EncodingSpeeds.to_dict` gives.
    """
    where = f"{table['machine']}, {table['backend']}"
    shapes = f", at shapes {table['shapes']}" if table["shapes"] else ""
    error = f"; tokens/s of whole files within {table['error']:.1%}" if table["error"] else ""
    build = f" ({table['build']})" if table["build"] else ""
    threads = f", threads: {table['threads']}" if table["threads"] else ""
    return (
        f"Microseconds per million weights in {table['format']} on {where}{threads}{build}"
        f"{shapes}; {table['token']:.0f} µs of a token are no weight's{error}"
    )


def cost_rows(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows for people: microseconds per million weights, the cheapest encoding first.

    Args:
        table: What `EncodingSpeeds.to_dict` gives.
    """
    rows: list[tuple[str, ...]] = []
    for name, cost in sorted(table["generation"].items(), key=lambda pair: pair[1]):
        ends, head, prompt = (table[key].get(name) for key in ("spread", "head", "prompt"))
        rows.append(
            (
                name,
                f"{encodings.get(name).bits:.2f}",
                f"{cost:.1f}",
                f"{ends[0]:.1f} to {ends[1]:.1f}" if ends else "",
                f"{head:.1f}" if head else "",
                f"{prompt:.1f}" if prompt else "",
            )
        )
    return rows


def of_target(choice: TargetChoice) -> EncodingSpeeds:
    """Costs by the roofline of a profile: every byte takes its time, whatever the encoding.

    Raises:
        UnsupportedError: The profile does not know how fast the device reads weights in the format.
    """
    backend = choice.backend
    if backend.efficiency is None or not choice.is_profiled:
        raise UnsupportedError(
            f"no speed of {choice.format} was measured on {choice.name}",
            expected="costs of encodings: `kanna bench SRC --encodings "
            f"--format {choice.format} --export FILE` on the device",
            todo="name that FILE with --speeds, or leave out --min-speed and --objective",
        )
    flops = backend.gigaflops.value * 1e9 if backend.gigaflops is not None else None
    per_byte = 1e12 / (choice.bandwidth * backend.efficiency.value)
    least = 2e12 / flops if flops else 0.0
    known = {name: encodings.get(name) for name in encodings.names()}
    return EncodingSpeeds(
        machine=choice.name,
        token=OVERHEAD * 1e6,
        generation={n: max(e.bits / 8 * per_byte, least) for n, e in known.items()},
        prompt=dict.fromkeys(known, least) if flops else {},
        error=backend.error.value if backend.error is not None else None,
        basis="roofline",
    )
