"""Our MLX folders: one calibration and one table of costs for every size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.common import workload
from benchmarks.common.folder_scoring import DecodedScorer
from benchmarks.common.workload import Workload

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import statistics
from kanna.conversion.mlx import number_of
from kanna.encodings.grouped.affine import name_of
from kanna.model import Model
from kanna.optimization import mlx
from kanna.optimization.measure import measure
from kanna.plan import Plan, RuleModel
from kanna.plan.allocate import Choice
from kanna.sources import open_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What plans are searched with."""

    bench: mlx.Bench
    choices: list[Choice]


class OurMlx:
    """Makes our folders of one model; calibrates when it is first asked for one."""

    def __init__(self, workload_: Workload) -> None:
        self.workload, self.scorer = workload_, DecodedScorer(workload_)

    @cached_property
    def measured(self) -> Measurements:
        """Statistics and costs, of the folder the peer reads.

        Of a source in 32 bits, scales would be in 32 bits, too.
        """
        stats, source = self.workload.statistics(), open_source(self.workload.hf_folder())
        model = families.load_model(source)
        costs = measure(
            model,
            statistics.read(stats),
            stats / "measure-mlx.json",
            threads=self.workload.threads,
            progress=Silent(),
            kinds=mlx.candidates(mlx.scales_of(model)),
        )
        bench = mlx.Bench(source=source, model=model, statistics=stats)
        return Measurements(bench=bench, choices=costs.choices(model))

    def write(self, plan: Plan | Path, out: Path) -> Path:
        """Write the folder of a plan."""
        result = kanna.convert(
            self.measured.bench.source,
            out,
            format="mlx",
            plan=plan,
            statistics=self.measured.bench.statistics,
            overwrite=True,
            threads=self.workload.threads,
        )
        return Path(result.paths[0])

    def plan(self, nbytes: int, out: Path) -> Path:
        """Our allocation in weight files of no more bytes."""
        file = out.with_suffix(".json")
        mlx.search(self.measured.bench, self.measured.choices, nbytes, file)
        return self.write(file, out)

    def tuned(self, planned: Path, out: Path) -> Path:
        """The planned folder tuned, as `--effort max` does."""
        running = workload.running(self.workload.threads)
        subject = mlx.subject(self.measured.bench, planned, out, running)
        return self.workload.tune(subject, planned.with_suffix(".json"))


def plan_of(model: Model, folder: Path) -> Plan:
    """The plan a folder was made by: bits and group of every matrix, from its arrays' shapes."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="np") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 no mapping
    number = number_of(model)
    rules: list[RuleModel] = []
    for ours, theirs in families.hf_names(model).items():
        if (scales := shapes.get(theirs.removesuffix("weight") + "scales")) is None:
            continue
        columns = model.tensors[ours].shape[-1]
        encoding = name_of(32 * shapes[theirs][-1] // columns, columns // scales[-1], number)
        rules.append(RuleModel(pattern=f"^{re.escape(ours)}$", encoding=encoding, method="gptq"))
    return Plan(name="peer", encoding=number, rules=rules)
