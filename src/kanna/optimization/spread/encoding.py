"""Values of every layer chosen in an executor: gptq a layer at a time, on several machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kanna import __version__, families
from kanna._util.digest import sha256
from kanna.calibration import statistics
from kanna.conversion.base import ConversionRequest
from kanna.conversion.gguf import GGUFConversion
from kanna.errors import KannaError
from kanna.formats import gguf
from kanna.hardware.cpu import default_threads
from kanna.optimization.context import Workspace
from kanna.optimization.rewrite import rewrite
from kanna.optimization.spread.layers import LayerWork, located
from kanna.plan.tuning import EncodedRows
from kanna.plan.types import TensorPlan
from kanna.sources import open_source

_FILE, _ARCHITECTURE = "layer.gguf", "general.architecture"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeCall:
    """The encoding of some tensors by a plan, which another process can load.

    Attributes:
        source: The model, on the machine that asks.
        statistics: Its statistics, there.
        plan: The plan, there.
        tensors: What is encoded.
        device: Where `gptq` runs; None: an accelerator when there is one.
    """

    source: str
    statistics: str
    plan: str
    tensors: tuple[str, ...]
    device: str | None

    def __call__(self, folder: Path, places: Mapping[str, str]) -> None:
        """Write the tensors into a GGUF of their own.

        Args:
            folder: Where it belongs.
            places: Where what is read lies here, by its path on the machine that asks.
        """
        folder.mkdir(parents=True, exist_ok=True)
        source = open_source(located(places, self.source))
        request = ConversionRequest(
            plan=located(places, self.plan),
            statistics=located(places, self.statistics),
            device=self.device,
        )
        work = GGUFConversion(source, families.load_decoder(source), None, request)
        entries = {entry.name: entry for entry in work.resolved.entries}
        gguf.write(
            folder / _FILE,
            metadata={_ARCHITECTURE: work.metadata[_ARCHITECTURE]},
            # Scales that were tuned come on top where the layers are put together.
            tensors=[replace(entries[name], scale=None, offset=None) for name in self.tensors],
            threads=default_threads(),
            overwrite=True,
        )


def write_layers(workspace: Workspace, plan: Path, out: Path) -> None:
    """Write the very bytes that `convert` would give, with the values of each layer from a part.

    Args:
        workspace: The calibrated source, and the executor.
        plan: The plan's file.
        out: The GGUF.

    Raises:
        KannaError: A layer could not be encoded.
    """
    device = workspace.context.device
    request = ConversionRequest(plan=plan, statistics=workspace.calibrated, device=device)
    resolved = GGUFConversion(workspace.source, workspace.model, out, request).resolved
    wanted = {entry.name: entry for entry in resolved.entries if _is_chosen(entry)}

    def call(part: tuple[str, ...]) -> EncodeCall:
        return EncodeCall(
            source=str(workspace.source.path.absolute()),
            statistics=str(workspace.calibrated.absolute()),
            plan=str(plan.absolute()),
            tensors=part,
            device=device,
        )

    def is_whole(folder: Path, part: Sequence[str]) -> bool:
        try:
            stored = gguf.read(folder / _FILE).tensors
        except KannaError:
            return False
        return all(n in stored and stored[n].dtype == wanted[n].encoding.name for n in part)

    work = LayerWork(
        step="gptq",
        workspace=workspace,
        folder=out.with_name(f"{out.stem}-layers"),
        key=[sha256(plan), statistics.read(workspace.calibrated).sha256, device, __version__],
        call=call,
        is_whole=is_whole,
        reads=(plan,),
    )
    folders = work.perform(wanted)
    rewrite(workspace, plan, out, before=[folder / _FILE for folder in folders])
    work.done()


def _is_chosen(entry: TensorPlan) -> bool:
    """Whether values are chosen for a tensor, not carried from the source or a tuning."""
    carried = isinstance(entry.tensor, EncodedRows) or entry.tensor.dtype == entry.encoding.name
    return entry.encoding.block > 1 and not carried
