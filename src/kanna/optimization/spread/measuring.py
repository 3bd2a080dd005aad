"""Encodings measured on the matrices of every layer, in an executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import statistics
from kanna.hardware.cpu import default_threads
from kanna.optimization import measure
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.measure import InputRounding
from kanna.optimization.measured_file import MeasuredFile
from kanna.optimization.spread.layers import LayerWork, located
from kanna.sources import open_source

FILE = "measure.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureCall:
    """The measuring of some tensors, which another process can load.

    Attributes:
        source: The model, on the machine that asks.
        statistics: Its statistics, there.
        tensors: What is measured.
        names: Encodings; None: all.
        rounding: What the runtime makes of inputs.
        device: Where errors are multiplied; None: an accelerator when there is one.
    """

    source: str
    statistics: str
    tensors: tuple[str, ...]
    names: tuple[str, ...] | None
    rounding: InputRounding | None
    device: str | None

    def __call__(self, folder: Path, places: Mapping[str, str]) -> None:
        """Measure.

        Args:
            folder: Where the costs belong; tensors that are there are not measured again.
            places: Where what is read lies here, by its path on the machine that asks.
        """
        folder.mkdir(parents=True, exist_ok=True)
        known = statistics.read(located(places, self.statistics))
        measure.fill(
            measure.opened_file(folder / FILE, known, self.names, self.device),
            families.load_decoder(open_source(located(places, self.source))),
            known,
            self.tensors,
            threads=default_threads(),
            progress=Silent(),
            rounding=self.rounding,
        )


def measure_layers(adapter: Adapter, names: Sequence[str] | None) -> None:
    """Measure what was not measured yet, a layer a part, into the file of costs.

    Without an executor nothing is done: `measure` follows in any case.

    Args:
        adapter: The format, for the calibrated source.
        names: Encodings; None: all.

    Raises:
        KannaError: A layer could not be measured.
    """
    workspace = adapter.workspace
    known, device = statistics.read(workspace.calibrated), workspace.context.device
    whole = measure.opened_file(adapter.file(FILE), known, names, device)
    tensors = measure.matrices(workspace.model)
    missing = [name for name in tensors if name not in whole.costs]
    if workspace.context.place is None or not missing:
        return

    def call(part: tuple[str, ...]) -> MeasureCall:
        return MeasureCall(
            source=str(workspace.source.path.absolute()),
            statistics=str(workspace.calibrated.absolute()),
            tensors=part,
            names=None if names is None else tuple(names),
            rounding=adapter.rounding,
            device=device,
        )

    def measured(folder: Path) -> MeasuredFile:
        return measure.opened_file(folder / FILE, known, names, device)

    work = LayerWork(
        step="measure",
        workspace=workspace,
        folder=adapter.file("measure-layers"),
        key=[whole.key, device],
        call=call,
        is_whole=lambda folder, part: measured(folder).costs.keys() >= set(part),
    )
    for part in map(measured, work.perform(missing)):
        whole.device = part.device
        whole.costs |= part.costs
    whole.costs = {name: whole.costs[name] for name in tensors}
    whole.save()
    work.done()
