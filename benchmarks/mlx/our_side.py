"""Our MLX folders: one calibration and one table of costs for every size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.common.folder_scoring import DecodedScorer
from benchmarks.common.workload import Workload

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import statistics
from kanna.encodings.grouped.affine import name_of
from kanna.model import Model
from kanna.optimization.adapters.mlx import MLXAdapter
from kanna.optimization.context import Context, Workspace
from kanna.optimization.kl_scorer import HeldOutWindows
from kanna.optimization.measure import measure
from kanna.optimization.search import search
from kanna.plan import Plan, RuleModel
from kanna.plan.allocate import Choice
from kanna.plan.mlx import float_type
from kanna.sources import open_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What plans are searched with."""

    adapter: MLXAdapter
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
        workspace = Workspace(
            source=source,
            model=families.load_model(source),
            folder=self.workload.folder,
            context=Context(threads=self.workload.threads),
            statistics=stats,
        )
        adapter = MLXAdapter(workspace)
        costs = measure(
            workspace.model,
            statistics.read(stats),
            stats / "measure-mlx.json",
            threads=self.workload.threads,
            progress=Silent(),
            names=adapter.candidates(),
        )
        return Measurements(adapter=adapter, choices=adapter.choices(costs))

    def write(self, plan: Plan | Path, out: Path) -> Path:
        """Write the folder of a plan."""
        result = kanna.convert(
            self.measured.adapter.workspace.source,
            out,
            format="mlx",
            plan=plan,
            statistics=self.measured.adapter.workspace.statistics,
            overwrite=True,
            threads=self.workload.threads,
        )
        return Path(result.paths[0])

    def plan(self, nbytes: int, out: Path) -> Path:
        """Our allocation in weight files of no more bytes."""
        file = out.with_suffix(".json")
        search(self.measured.adapter, self.measured.choices, nbytes, file)
        return self.write(file, out)

    def tuned(self, planned: Path, out: Path) -> Path:
        """The planned folder tuned, as `--effort max` does."""
        plan, none = planned.with_suffix(".json"), HeldOutWindows(trial=[], proof=[], fitted=False)
        subject = self.measured.adapter.tuning_subject(plan, planned, out, none)
        return self.workload.tune(subject, plan)


def plan_of(model: Model, folder: Path) -> Plan:
    """The plan a folder was made by: bits and group of every matrix, from its arrays' shapes."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="np") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 no mapping
    number = float_type(model)
    rules: list[RuleModel] = []
    for ours, theirs in families.hf_names(model).items():
        if (scales := shapes.get(theirs.removesuffix("weight") + "scales")) is None:
            continue
        columns = model.tensors[ours].shape[-1]
        encoding = name_of(32 * shapes[theirs][-1] // columns, columns // scales[-1], number)
        rules.append(RuleModel(pattern=f"^{re.escape(ours)}$", encoding=encoding, method="gptq"))
    return Plan(name="peer", encoding=number, rules=rules)
