"""What every encoding costs a token: a table that was measured, or one made of a roofline.

A token takes what no weight accounts for, and for every matrix its weights times the cost of their
encoding. That is linear, so that a plan can be chosen under it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kanna import encodings
from kanna._util import typed
from kanna._util.typed import TypedObject
from kanna.errors import FormatError, UnsupportedError, UsageError
from kanna.hardware.roofline import OVERHEAD, PredictedSpeed
from kanna.hardware.targets.base import TargetChoice
from kanna.hardware.token_work import TensorWork

KIND = "encoding-speeds"
"""What a file of them says it is."""
_MOST_BYTES = 1 << 20
_TODO = "`kanna bench SRC --encodings --export FILE` writes one"
_COST = typed.number(1e-6, 1e9)
_NAME = typed.text(200)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSpeeds:
    """Microseconds of one token on one machine.

    Attributes:
        machine: The processor, or the device.
        format: Whose runtime multiplied.
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

    def slower(self, factor: float, *, error: float) -> EncodingSpeeds:
        """The table with every cost of a generated token that many times as high.

        Args:
            factor: Above 1 where tokens take longer.
            error: Of the new table.
        """

        def times(costs: Mapping[str, float]) -> dict[str, float]:
            return {name: cost * factor for name, cost in costs.items()}

        return replace(
            self,
            token=self.token * factor,
            generation=times(self.generation),
            head=times(self.head),
            spread={n: (low * factor, high * factor) for n, (low, high) in self.spread.items()},
            by_shape={shape: times(costs) for shape, costs in self.by_shape.items()},
            error=error,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"kind": KIND} | asdict(self)


COST_COLUMNS = ("encoding", "bits>", "token µs>", "range", "head µs>", "prompt µs>")


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
        UnsupportedError: The profile does not know how fast the device reads weights.
    """
    backend = choice.backend
    if backend.efficiency is None:
        raise UnsupportedError(
            f"no speed was measured on {choice.name}",
            todo="leave out --min-speed and --objective, or name costs that were measured on the "
            "device: --speeds FILE",
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


def read(path: Path) -> EncodingSpeeds:
    """A table from a file that anybody may have written.

    Raises:
        FormatError: It is none, or a figure is missing or absurd; the error names it.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FormatError(f"{path} has {path.stat().st_size} bytes", expected="1 MB at most")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}", todo="check the path") from None
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is no JSON", expected="encoding speeds", todo=_TODO) from None
    return parse(value, str(path))


def check_format(table: EncodingSpeeds, format: str) -> None:
    """Raise UsageError for a table of another format.

    Args:
        table: That was named.
        format: That is asked for.
    """
    if table.format != format:
        raise UsageError(
            f"costs of encodings of {table.format} say nothing of {format}",
            expected=f"a table of {format}",
            todo=f"`kanna bench SRC --encodings --format {format} --export FILE` writes one",
        )


def parse(value: object, file: str) -> EncodingSpeeds:
    """The same from a JSON value.

    Args:
        value: The object.
        file: Where it was read, for errors.
    """
    top = TypedObject.of(value, file, _TODO)
    if top.get("kind", _NAME, "") != KIND:
        raise FormatError(f"{file} holds no encoding speeds", expected=f"kind = {KIND}", todo=_TODO)
    generation = _costs(top, "generation")
    if not generation:
        raise FormatError(f"{file} names no encoding in generation", todo=_TODO)
    ends, spread = typed.listed(_COST, 2), top.part("spread")
    pairs = {name: spread.need(name, ends) for name in spread.values}
    return EncodingSpeeds(
        machine=top.get("machine", _NAME, ""),
        build=top.get("build", _NAME, ""),
        threads=top.get("threads", typed.whole(), 0),
        shapes=top.get("shapes", _NAME, ""),
        token=top.need("token", typed.number(0, 1e9)),
        prompt_token=top.get("prompt_token", typed.number(0, 1e9), 0.0),
        generation=generation,
        head=_costs(top, "head"),
        prompt=_costs(top, "prompt"),
        spread={name: (pair[0], pair[-1]) for name, pair in pairs.items() if pair},
        by_shape=_by_shape(top, "by_shape"),
        prompt_by_shape=_by_shape(top, "prompt_by_shape"),
        error=top.get("error", typed.number(0, 1e3), None),
        basis=top.get("basis", _NAME, "measured"),
        format=top.get("format", _NAME, "gguf"),
    )


def _costs(top: TypedObject, key: str) -> dict[str, float]:
    part = top.part(key)
    return {encodings.get(name).name: part.need(name, _COST) for name in part.values}


def _by_shape(top: TypedObject, key: str) -> dict[str, dict[str, float]]:
    part = top.part(key)
    return {shape: _costs(part, shape) for shape in part.values}
