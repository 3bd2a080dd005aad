"""Compiles one graph, or loads a compiled one, in a process of its own.

`python -m kanna.compilation.worker TASK`. A crash of a vendor's compiler ends this process and no
other, and a compiler that knows one graph per process has one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kanna._util.processes import answer
from kanna.formats.onnx import files
from kanna.hardware import providers
from kanna.runtimes.onnx import library
from kanna.runtimes.onnx_session import open_session

_COMPATIBILITY = "ep_compatibility_info."


def compile_graph(graph: str, *, out: str | None, provider: str) -> dict[str, Any]:
    """Load a graph on a provider, and write what its compiler made of it.

    Args:
        graph: The graph.
        out: Where the compiled one is written, its binary beside it; None: it is loaded alone.
        provider: Name of the provider.
    """
    profile = providers.get(provider)
    entries: dict[str, str] = {}
    if out is not None:
        entries = {
            "ep.context_enable": "1",
            "ep.context_file_path": out,
            "ep.context_embed_mode": "0",
            "ep.context_model_external_initializers_file_name": f"{Path(out).name}.data",
        }
    open_session(library(), Path(graph), profile, entries=entries)
    if out is None or not Path(out).exists():
        return {"contexts": 0, "nodes": 0, "compatibility": ""}
    model = files.load(Path(out))
    contexts = sum(node.op_type == "EPContext" for node in model.graph.node)
    props = {prop.key: prop.value for prop in model.metadata_props}
    return {
        "contexts": contexts,
        "nodes": len(model.graph.node) - contexts,
        "compatibility": props.get(f"{_COMPATIBILITY}{profile.provider}", ""),
    }


if __name__ == "__main__":
    sys.exit(answer(compile_graph))
