"""What each encoding would cost each tensor: errors on held-out inputs, by how much they matter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanna import encodings, methods
from kanna._util.blas import one_thread
from kanna._util.progress import Progress, Silent
from kanna.calibration import gradients
from kanna.calibration.devices import CPU
from kanna.calibration.statistics import Statistics
from kanna.encodings import Encoding, grid_detection
from kanna.families.stacked import one_of
from kanna.model import F32, Model, Tensor, columns, num_rows
from kanna.optimization.held_products import HeldProducts
from kanna.optimization.measured_file import MeasuredFile
from kanna.plan import roles
from kanna.plan.allocate import Choice, Option

CANDIDATES = encodings.candidates()
ROWS, HEAD_ROWS = 96, 256
EXPERTS = 8
"""Experts of a layer whose rows are measured, at most; each has a second moment of its own."""
_LEAST_HELD = 8
TABLES = {
    "token_embd.weight": gradients.EMBEDDING,
    "per_layer_token_embd.weight": gradients.LAYER_EMBEDDING,
}
"""Tensors that are read row by row, and the gradients of their columns."""
VALUES = 2
"""Goes up when a method chooses other values, so that costs of before are measured again."""
InputRounding = Callable[[Encoding, F32], "F32 | None"]
"""What a runtime makes of inputs f32 [tokens, columns] before it multiplies them by an encoding.

None where it takes them as they are.
"""
ALIGNMENT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Costs in nats of KL divergence, predicted, by tensor and encoding; saved as measure.json.

    Attributes:
        key: Hash of what they depend on.
        costs: In nats, by tensor and encoding.
        remarks: What was done where the memory of a device ran out.
    """

    key: str
    costs: dict[str, dict[str, float]]
    remarks: list[str] = field(default_factory=list[str])

    def choices(
        self,
        model: Model,
        allowed: Callable[[str, str], bool] | None = None,
        scale: Mapping[str, float] | None = None,
    ) -> list[Choice]:
        """What `allocate` takes: one choice per tensor.

        Args:
            model: Tells the shapes.
            allowed: Whether a tensor may have an encoding; None: any.
            scale: What the costs of each tensor are multiplied by, see `probe`.
        """
        choices: list[Choice] = []
        for name, costs in self.costs.items():
            factor = (scale or {}).get(name, 1.0)
            options = [
                Option(
                    encoding=e,
                    nbytes=_size(model.tensors[name], encodings.get(e)),
                    cost=cost * factor,
                )
                for e, cost in costs.items()
                if allowed is None or allowed(name, e)
            ]
            choices.append(Choice(name=name, options=options))
        return choices


def _size(tensor: Tensor, encoding: Encoding) -> int:
    """Bytes in a GGUF, padding to the next tensor included."""
    size = num_rows(tensor) * encoding.row_bytes(columns(tensor))
    return -(-size // ALIGNMENT) * ALIGNMENT


def candidates(tensor: Tensor, names: Sequence[str] | None = None) -> list[Encoding]:
    """Encodings whose blocks divide the rows of a tensor.

    Args:
        tensor: A matrix.
        names: The candidates; None: CANDIDATES, and the encoding whose grid the tensor lies on.
    """
    if names is None:
        grid = grid_detection.detect(tensor)
        further = grid is not None and grid.encoding not in CANDIDATES
        # Groups of MLX that no block of GGUF holds are no candidate there.
        if grid is not None and further and encodings.get(grid.encoding).ggml_type is not None:
            names = (*CANDIDATES, grid.encoding)
        else:
            names = CANDIDATES
    return [e for e in map(encodings.get, names) if columns(tensor) % e.block == 0]


def matrices(model: Model) -> list[str]:
    """Tensors whose encoding is looked for; the others keep full precision."""
    return [n for n, t in model.tensors.items() if roles.quantizable(t) and len(t.shape) in (2, 3)]


def unmeasured(model: Model, names: Sequence[str] | None = None) -> Measured:
    """The choices there are before anything is known of their costs: more bits are better."""
    costs = {
        n: {e.name: 1 / e.bits for e in candidates(model.tensors[n], names)}
        for n in matrices(model)
    }
    return Measured(key="", costs=costs)


def measure(
    model: Model,
    statistics: Statistics,
    path: Path,
    *,
    threads: int,
    progress: Progress,
    names: Sequence[str] | None = None,
    rounding: InputRounding | None = None,
    device: str | None = CPU,
) -> Measured:
    """Cost of every candidate encoding for every tensor that may be quantized.

    Args:
        model: The source.
        statistics: Of its inputs.
        path: Costs are saved here tensor by tensor, and read again for the next budget.
        threads: Encodings measured at a time.
        progress: Where to report.
        names: The candidates; None: CANDIDATES.
        rounding: What the runtime makes of inputs; None where it takes them as they are.
        device: Where errors are multiplied by held-out inputs; encoders run on the CPU. None: an
            accelerator when there is one.
    """
    file = opened_file(path, statistics, names, device)
    tensors = matrices(model)
    remarks = fill(
        file, model, statistics, tensors, threads=threads, progress=progress, rounding=rounding
    )
    return Measured(
        key=file.key, costs={name: file.costs[name] for name in tensors}, remarks=remarks
    )


def opened_file(
    path: Path, statistics: Statistics, names: Sequence[str] | None, device: str | None
) -> MeasuredFile:
    """The file of costs, with what an earlier run measured; arguments as for `measure`."""
    grads = gradients.read(statistics.folder)
    known = [VALUES, statistics.sha256, sorted(grads), list(names or CANDIDATES), ROWS]
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    file = MeasuredFile(path=path, key=key, names=names, device=device)
    file.load()
    return file


def fill(
    file: MeasuredFile,
    model: Model,
    statistics: Statistics,
    tensors: Sequence[str],
    *,
    threads: int,
    progress: Progress,
    rounding: InputRounding | None,
) -> list[str]:
    """Measure what the file does not have yet; what was done where memory of a device ran out.

    Args:
        file: Gets the costs, and is saved tensor by tensor.
        model: The source.
        statistics: Of its inputs.
        tensors: What is measured.
        threads: Encodings measured at a time.
        progress: Where to report.
        rounding: What the runtime makes of inputs.
    """
    meter = _CostMeter(model, statistics, gradients.read(statistics.folder), file.names, rounding)
    if not file.costs.keys() >= set(tensors):
        meter.products = HeldProducts(file.device, progress)
        file.device = meter.products.device
        statistics.feedback_device = meter.products.device
    progress.start("measure", len(tensors), "tensors")
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for name in tensors:
            if name not in file.costs:
                costs = meter.costs(name, pool)
                if (kind := model.tensors[name].dtype) in costs:
                    costs[kind] = 0.0  # carried as it is stored
                file.costs[name] = costs
                file.save()
            progress.advance(1, name)
    progress.finish()
    return meter.products.remarks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Some rows of a matrix.

    Attributes:
        x: The rows, f32 [rows, columns].
        share: What each stands for.
        inputs: What is known of their inputs.
        held: Held-out inputs, f32 [tokens, columns].
    """

    x: F32
    share: Any
    inputs: methods.Inputs
    held: F32

    @classmethod
    def of(
        cls, tensor: Tensor, sensitivity: F32, count: int, inputs: methods.Inputs, held: F32
    ) -> _Sample:
        """`count` rows of a matrix at most, drawn by their sensitivity."""
        at, share = _sample(sensitivity, count)
        x = np.concatenate([tensor.rows(int(i), int(i) + 1) for i in at])
        if len(held) == 0 and inputs.weights is not None:
            held = np.diag(np.sqrt(inputs.weights * len(inputs.weights))).astype(np.float32)
        return cls(x=x, share=share, inputs=inputs, held=held)


class _CostMeter:
    """Measures one tensor after the other."""

    def __init__(
        self,
        model: Model,
        statistics: Statistics,
        grads: dict[str, F32],
        names: Sequence[str] | None,
        rounding: InputRounding | None,
    ) -> None:
        self.model, self.statistics, self.grads = model, statistics, grads
        self.names, self.rounding = names, rounding
        self.tied = "output.weight" not in model.tensors
        self.method = methods.get("gptq")
        self.products = HeldProducts(CPU, Silent())

    def costs(self, name: str, pool: ThreadPoolExecutor) -> dict[str, float]:
        """Cost of each candidate for one tensor."""
        tensor = self.model.tensors[name]
        options = candidates(tensor, self.names)
        site = self.statistics.site_of.get(name)
        if site is None:
            cost_of = self._embedding if name in TABLES else self._plain
            results = pool.map(cost_of, [tensor] * len(options), options)
            return {e.name: cost for e, cost in zip(options, results, strict=True)}
        samples = list(self._samples(name, tensor, HEAD_ROWS if site == "head" else ROWS))

        def cost(encoding: Encoding) -> float:
            total = sum(self._sampled(sample, encoding) for sample in samples)
            if name == "token_embd.weight":
                total += self._embedding(tensor, encoding)
            return total

        return {e.name: c for e, c in zip(options, pool.map(cost, options), strict=True)}

    def _samples(self, name: str, tensor: Tensor, count: int) -> Iterator[_Sample]:
        """Rows to measure, drawn by how much they matter: of the whole matrix, or of experts."""
        sensitivity = self._sensitivity(name, tensor)
        moment = self.statistics.second_moment(name)
        weights = self.statistics.weights[name]
        if len(tensor.shape) < 3:
            held = self.statistics.held(name)
            inputs = methods.Inputs(weights=weights, second_moment=moment)
            yield _Sample.of(tensor, sensitivity, count, inputs, held)
            return
        each = sensitivity.reshape(tensor.shape[0], -1)
        experts, shares = _sample(each.sum(axis=1), EXPERTS)
        for expert, share in zip(map(int, experts), shares, strict=True):
            inputs = methods.Inputs(
                weights=weights[expert], second_moment=moment and moment.of(expert)
            )
            rows, held = each[expert], self.statistics.held(name, expert)
            if len(held) < _LEAST_HELD:
                held = held[:0]
            rows = rows * (share / max(float(rows.sum()), 1e-30))
            count_each = -(-count // len(experts))
            yield _Sample.of(one_of(name, tensor, expert), rows, count_each, inputs, held)

    def _sampled(self, sample: _Sample, encoding: Encoding) -> float:
        """Error of some rows on held-out inputs, by how much each matters."""
        x, held = sample.x, sample.held
        if encoding.block == 1:
            data = encoding.encode(x)
        else:
            data = self.method.encode(encoding, x, sample.inputs)
        decoded = encoding.decode(data, x.shape[1])
        rounded = self.rounding(encoding, held) if self.rounding else None
        per_row = self.products.errors(decoded, x, held, rounded)
        return 0.5 * float(per_row @ sample.share)

    def _sensitivity(self, name: str, tensor: Tensor) -> F32:
        """Mean square gradient of each row.

        Without a backward pass, errors count relative to the outputs.
        """
        if name in self.grads:
            return self.grads[name]
        rows = num_rows(tensor)
        at = np.unique(np.linspace(0, rows - 1, min(rows, ROWS)).astype(int))
        x = np.concatenate([tensor.rows(int(i), int(i) + 1) for i in at])
        weights = np.atleast_2d(self.statistics.weights[name])
        per_expert = rows // len(weights)
        powers = (np.square(x, dtype=np.float64) * weights[at // per_expert]).sum(axis=1)
        power = float(powers.mean()) or 1.0
        # An expert's outputs count as often as tokens go to it.
        tokens = self.statistics.sites[self.statistics.site_of[name]].experts
        used = np.array(tokens if len(weights) > 1 else [1.0]) / max(1, sum(tokens or [1]))
        return np.repeat(used / (power * per_expert), per_expert).astype(np.float32)

    def _embedding(self, tensor: Tensor, encoding: Encoding) -> float:
        """The embedding read forwards.

        Rows as often as text has them, columns by their gradient.
        """
        from safetensors.numpy import load_file

        counts = load_file(self.statistics.folder / "embedding.safetensors")["counts"].astype(
            np.float64
        )
        columns_ = self.grads.get(TABLES[tensor.name])
        counts = counts[: num_rows(tensor)]
        at, share = _sample(counts / counts.sum(), HEAD_ROWS)
        x = np.concatenate([tensor.rows(int(i), int(i) + 1) for i in at])
        if columns_ is None:
            columns_ = np.full(
                x.shape[1], 1.0 / max(1e-12, float(np.square(x).sum(axis=1).mean())), np.float32
            )
        data = encoding.encode(x)
        error = np.square(encoding.decode(data, x.shape[1]) - x) @ columns_.astype(np.float64)
        return 0.5 * float(error @ share)

    def _plain(self, tensor: Tensor, encoding: Encoding) -> float:
        """A matrix whose inputs are not known: relative squared error of some rows."""
        at = np.unique(np.linspace(0, num_rows(tensor) - 1, ROWS).astype(int))
        x = np.concatenate([tensor.rows(int(i), int(i) + 1) for i in at])
        error = encoding.decode(encoding.encode(x), x.shape[1]) - x
        return float(np.square(error).sum() / max(1e-30, float(np.square(x).sum())))


def _sample(weights: Any, count: int) -> tuple[Any, Any]:
    """Rows drawn in proportion to their weights, evenly along the sum, and what each stands for.

    For any f, sum over rows of weights * f is about the sum over the sample of share * f.
    """
    weights = np.maximum(np.asarray(weights, np.float64), 0)
    total = weights.sum()
    if not total > 0:
        weights, total = np.ones_like(weights), float(len(weights))
    ends = np.cumsum(weights)
    points = (np.arange(count) + 0.5) * total / count
    at = np.minimum(np.searchsorted(ends, points), len(weights) - 1)
    rows, times = np.unique(at, return_counts=True)
    return rows, times * total / count
