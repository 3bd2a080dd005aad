"""An ONNX folder on an execution provider and on the CPU: what ran where, and is it right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util import own_files
from kanna._util.processes import ask
from kanna._util.progress import Progress, Silent
from kanna.checks import Check
from kanna.errors import GateError, MissingError, UsageError
from kanna.evaluation.divergence import compare
from kanna.formats.onnx import files
from kanna.hardware import providers
from kanna.hardware.providers import ProviderProfile, placement
from kanna.hardware.threads import choose_threads
from kanna.model import F32
from kanna.runtimes.onnx_session import GRAPH, VARIABLE

MOST_KL = 0.05
"""Mean KL divergence in nats, CPU ‖ provider: providers compute floats in 16 bits."""
_CPU = "CPUExecutionProvider"
MEASURED, TABLE = "measured", "table"
"""How it is known which nodes a provider takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementProof:
    """What a folder's run on an execution provider came to.

    Attributes:
        backend: The provider.
        basis: `measured`: onnxruntime's own record of a run here; `table`: of the profile.
        checks: Placement of each graph, and the logits beside the CPU's.
        graphs: Parts and nodes by provider, of each file.
        load_s: Seconds until it was compiled and loaded; 0 where it was not.
    """

    backend: str
    basis: str
    checks: list[Check]
    graphs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    load_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


def variables(provider: str | None) -> Mapping[str, str]:
    """Variables with which a child of ours computes on an execution provider; None: on the CPU."""
    return {} if provider is None else {VARIABLE: providers.get(provider).name}


def prove(
    path: str | Path, provider: str, *, threads: int | None = None, progress: Progress | None = None
) -> PlacementProof:
    """Hold a folder to an execution provider: by a run where it can be loaded, else by its table.

    Args:
        path: An ONNX folder of a decoder.
        provider: Name of the provider.
        threads: Of the CPU; None: one per physical core that other programs leave free.
        progress: Where progress is reported.

    Raises:
        UsageError: There is no such provider, or the file is of another format.
        KannaError: The run ended: a driver's crash, no memory.
    """
    folder = Path(path)
    profile = require_folder(folder, provider)
    by_table = _by_table(folder, profile)
    try:
        runs = _runs(folder, list(by_table), profile, threads, progress or Silent())
    except MissingError as error:
        return _unmeasured(profile, by_table, error)
    checks = [check for name, run in runs.items() for check in _held(profile, name, run)]
    return PlacementProof(
        backend=profile.name,
        basis=MEASURED,
        checks=checks,
        graphs={name: run["graph"] for name, run in runs.items()},
        load_s=sum(run["load_s"] for run in runs.values()),
    )


def require_folder(folder: Path, provider: str) -> ProviderProfile:
    """The profile of a provider, if it computes what was named; UsageError otherwise.

    Args:
        folder: An ONNX folder of a decoder.
        provider: Name of the provider.
    """
    profile = providers.get(provider)
    if not files.is_onnx(folder) or files.is_encoder(folder):
        raise UsageError(
            f"{folder} on the execution provider {profile.name}",
            expected="an ONNX folder of a decoder, as `kanna convert --format onnx` writes it",
        )
    return profile


def require(
    path: str | Path, provider: str, *, threads: int | None = None, progress: Progress | None = None
) -> PlacementProof:
    """The same; GateError where a check failed, MissingError where it could not be run.

    Args:
        path: An ONNX folder.
        provider: Name of the provider.
        threads: Of the CPU; None: one per physical core that other programs leave free.
        progress: Where progress is reported.
    """
    proof = prove(path, provider, threads=threads, progress=progress)
    for check in proof.checks:
        if check.ok is None:
            raise MissingError(f"{provider} cannot run here: {check.detail}")
        if not check.ok:
            raise GateError(
                f"{provider} was asked for with {Path(path).name}; {check.name}: {check.detail}",
                expected=f"its matrix products on {provider}, with the logits of the CPU",
                todo=f"kanna verify SRC {path} --provider {provider} shows every check",
            )
    return proof


def _runs(
    folder: Path,
    graphs: Sequence[str],
    profile: ProviderProfile,
    threads: int | None,
    bar: Progress,
) -> dict[str, dict[str, Any]]:
    """What each graph on the provider, the others on the CPU, came to; with `kl` to the CPU's."""
    task = {"path": str(folder.absolute()), "threads": threads or choose_threads().count}
    bar.start(f"run on {profile.name}", 1 + len(graphs), "runs")

    def run(on: str, graph: str) -> tuple[dict[str, Any], F32]:
        bar.advance(0, f"{graph} on {on}")
        with own_files.scratch() as scratch:
            logits = scratch / "logits.npy"
            done = ask(
                "kanna.offload.providers.worker",
                task | {"graph": graph, "logits": str(logits)},
                f"computing {graph} of {folder.name} on {on}",
                variables={VARIABLE: on, GRAPH: graph},
            )
            bar.advance(1)
            return done, np.load(logits)

    try:
        runs = {graph: run(profile.name, graph) for graph in graphs}
        _, reference = run("cpu", graphs[0])
    finally:
        bar.finish()
    top = np.argmax(reference, axis=1)
    return {
        graph: done | {"kl": float(compare(reference, [made], top)[1][0].kl.mean())}
        for graph, (done, made) in runs.items()
    }


def _held(profile: ProviderProfile, name: str, run: Mapping[str, Any]) -> list[Check]:
    """The checks of one graph: where its nodes are, and its logits."""
    logits = Check(
        name=f"{profile.name}: logits, {name}",
        ok=run["kl"] <= MOST_KL,
        detail=f"KL {run['kl']:.2g} to the CPU's, at most {MOST_KL:g}",
    )
    return [_placed(profile, name, run["graph"]), logits]


def _by_table(folder: Path, profile: ProviderProfile) -> dict[str, placement.TablePlacement]:
    known = files.read_folder(folder)
    graphs = [known.prefill, known.graph] if known.prefill else [known.graph]
    return {graph.name: placement.place(files.load(graph), profile) for graph in graphs}


def _placed(profile: ProviderProfile, name: str, graph: Mapping[str, Any]) -> Check:
    """A graph is on the provider when all of its products are."""
    nodes: dict[str, dict[str, int]] = graph["nodes"]
    own = sum(nodes.get(profile.provider, {}).values())
    total = sum(sum(counts.values()) for counts in nodes.values())
    left = {} if profile.provider == _CPU else nodes.get(_CPU, {})
    products = {op: count for op, count in left.items() if op in placement.PRODUCTS}
    detail = f"{own} of {total} nodes{_parts(profile, graph)}, as onnxruntime placed them"
    if left:
        named = ", ".join(f"{count} {op}" for op, count in sorted(left.items())[:6])
        detail += f"; on the CPU: {named}, such as {graph['on_cpu'][0]}"
    return Check(name=f"{profile.name}: {name}", ok=own > 0 and not products, detail=detail)


def _parts(profile: ProviderProfile, graph: Mapping[str, Any]) -> str:
    """` in 2 parts`: between them tensors are copied; the CPU has its nodes one by one."""
    if profile.provider == _CPU:
        return ""
    number = graph["parts"].get(profile.provider, 0)
    return f" in {number} part{'s' * (number != 1)}"


def _unmeasured(
    profile: ProviderProfile,
    by_table: Mapping[str, placement.TablePlacement],
    missing: MissingError,
) -> PlacementProof:
    """What the table says: a refused product fails, and all else could not be checked here."""
    checks: list[Check] = []
    for name, table in by_table.items():
        detail = f"{table.sentence()} (not run: {profile.table})"
        if table.products:
            detail += f"; {table.products[0].sentence()}"
        checks.append(
            Check(
                name=f"{profile.name}: {name}", ok=False if table.products else None, detail=detail
            )
        )
    reason = f"{missing.found}; {missing.todo}" if missing.todo else missing.found
    checks.append(Check(name=f"{profile.name}: logits", ok=None, detail=reason))
    return PlacementProof(backend=profile.name, basis=TABLE, checks=checks)
