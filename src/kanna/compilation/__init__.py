"""An ONNX folder compiled for a device ahead of time: its context binaries.

The compiler is that of the execution provider, asked by onnxruntime (`ep.context_enable`): each
graph becomes one whose subgraphs are `EPContext` nodes, with a binary beside it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.bars import shown
from kanna._util.processes import ask
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.errors import OutputError, UnsupportedError, UsageError
from kanna.formats.onnx import files
from kanna.formats.stream import replacing
from kanna.hardware import providers
from kanna.hardware.providers import ProviderProfile
from kanna.sources import adapter, locate

__all__ = ["CompiledGraph", "CompileResult", "compile"]

_GRAPH_FILES = (".onnx", ".data", ".bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledGraph:
    """One graph.

    Attributes:
        contexts: Parts of it that are compiled.
        nodes: What is left beside them, computed on the CPU.
        nbytes: Of the graph, its binary and its data.
        seconds: That the compiler took.
        compatibility: What the provider says of where it runs.
    """

    contexts: int
    nodes: int
    nbytes: int
    seconds: float
    compatibility: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CompileResult(Result):
    """A compiled folder.

    Attributes:
        folder: Where it is.
        provider: Name of the execution provider.
        graphs: By file name.
        file_bytes: Of all files.
    """

    folder: str
    provider: str
    graphs: Mapping[str, CompiledGraph] = field(default_factory=dict[str, CompiledGraph])
    file_bytes: int = 0

    def headline(self) -> str:
        """Where it is, and for what."""
        return f"{self.folder}: compiled for {self.provider}, {format_size(self.file_bytes)}"

    def tables(self) -> list[ResultTable]:
        """A row per graph."""
        rows = [
            (name, one.contexts, one.nodes, format_size(one.nbytes), f"{one.seconds:.1f} s")
            for name, one in self.graphs.items()
        ]
        columns = ("graph", "compiled parts", "nodes on the CPU", "size", "time")
        return [ResultTable(columns=columns, rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return asdict(self)


def compile(
    folder: str | Path,
    out: str | Path,
    *,
    provider: str,
    offline: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CompileResult:
    """Write an ONNX folder whose graphs are compiled for a device.

    Each graph is compiled in a process of its own and loaded again from what was written.

    Args:
        folder: An ONNX folder of a decoder, or a hub id of one.
        out: The folder to write; it gets its name when all of it is there.
        provider: An execution provider that compiles, such as qnn or openvino; what it compiles
            for is in its profile (`options`).
        offline: Use only what is on this machine.
        overwrite: Replace what is at `out`.
        progress: Where progress is reported; None: a bar in terminals and notebooks.

    Returns:
        What was written.

    Raises:
        UsageError: There is no such provider, or it wants fixed shapes.
        FormatError: It is no ONNX folder, or the compiler refuses a graph.
        MissingError: The provider is not here; what brings it.
        UnsupportedError: The provider compiles nothing of a graph.
        OutputError: `out` exists.
    """
    target, profile, bar = Path(out), providers.get(provider), shown(progress)
    source = locate(folder, offline=offline, progress=bar)
    if not files.is_onnx(source) or files.is_encoder(source):
        adapter.refuse_folder(source)
        raise UsageError(
            f"{source} cannot be compiled",
            expected="an ONNX folder of a decoder, as `kanna convert --format onnx` writes it",
        )
    known = files.read_folder(source)
    if profile.static_shapes.value and known.prefill is None:
        raise UsageError(
            f"{profile.name} compiles graphs of fixed shapes alone",
            expected="a folder that `kanna convert --static CHUNKxCONTEXT` wrote",
        )
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists", todo="choose another name, or add --overwrite")
    graphs = [known.prefill, known.graph] if known.prefill else [known.graph]
    bar.start(f"compile for {profile.name}", len(graphs), "graphs")
    made: dict[str, CompiledGraph] = {}
    try:
        with replacing(target) as folder_made:
            folder_made.mkdir()
            for path in sorted(source.iterdir()):
                if path.is_file() and path.suffix not in _GRAPH_FILES:
                    shutil.copy(path, folder_made)
            for graph in graphs:
                bar.advance(0, graph.name)
                made[graph.name] = _compiled(graph, folder_made, profile)
                bar.advance(1)
    finally:
        bar.finish()
    nbytes = sum(path.stat().st_size for path in target.iterdir())
    return CompileResult(folder=str(target), provider=profile.name, graphs=made, file_bytes=nbytes)


def _compiled(graph: Path, folder: Path, profile: ProviderProfile) -> CompiledGraph:
    """Compile a graph into a folder, and load it from there again."""
    task = {"graph": str(graph.absolute()), "out": str(folder / graph.name)}
    begin = time.perf_counter()
    done = ask(
        "kanna.compilation.worker",
        task | {"provider": profile.name},
        f"compiling {graph.name} for {profile.name}",
    )
    seconds = time.perf_counter() - begin
    if not done["contexts"]:
        raise UnsupportedError(
            f"{profile.provider} compiled nothing of {graph.name}",
            expected="a provider that makes context binaries, such as qnn or openvino",
            todo=f"kanna verify SRC {graph.parent} --provider {profile.name} says which nodes it "
            "takes",
        )
    ask(
        "kanna.compilation.worker",
        {"graph": str(folder / graph.name), "out": None, "provider": profile.name},
        f"loading the compiled {graph.name} on {profile.name}",
    )
    here = [path for path in folder.iterdir() if path.name.startswith(graph.stem)]
    return CompiledGraph(
        contexts=done["contexts"],
        nodes=done["nodes"],
        nbytes=sum(path.stat().st_size for path in here),
        seconds=seconds,
        compatibility=done["compatibility"],
    )
