"""One run of an ONNX folder on an execution provider, in a process of its own.

`python -m kanna.offload.providers.worker TASK` writes logits to a file and prints which provider
got which node, as onnxruntime recorded it. A crash of a driver ends this process and no other.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np

from kanna._util.processes import answer
from kanna.runtimes.onnx import RUNTIME

PROMPT = 16
"""Tokens that a graph of any length reads at once."""
_MOST_NAMED = 12


def run(path: str, *, graph: str, logits: str, threads: int) -> dict[str, Any]:
    """Read a few tokens at once, and one after them.

    The provider is that of `onnx_session.VARIABLE`, for the graph of `onnx_session.GRAPH`.

    Args:
        path: A folder.
        graph: The file of that graph.
        logits: Where the logits are written, f32 [tokens, vocabulary].
        threads: Threads of the CPU.
    """
    begin = time.perf_counter()
    folder = Path(path)
    with RUNTIME.open(folder, context=256, threads=threads) as engine:
        loaded = time.perf_counter() - begin
        prompt = getattr(engine, "chunk", PROMPT)
        ids = [(17 + 31 * i) % (engine.vocab_size - 1) for i in range(prompt + 1)]
        begin = time.perf_counter()
        np.save(logits, engine.logits(ids))
        sessions: dict[str, Any] = cast("Any", engine).sessions()
        return {
            "runtime": RUNTIME.available().version,
            "load_s": loaded,
            "seconds": time.perf_counter() - begin,
            "graph": assignment(sessions[graph]),
        }


def assignment(session: Any) -> dict[str, Any]:
    """What onnxruntime recorded of a session: parts and nodes by provider, and those on the CPU."""
    parts: Counter[str] = Counter()
    nodes: dict[str, Counter[str]] = {}
    on_cpu: list[str] = []
    for part in session.get_provider_graph_assignment_info():
        parts[part.ep_name] += 1
        for node in part.get_nodes():
            nodes.setdefault(part.ep_name, Counter())[node.op_type] += 1
            if part.ep_name == "CPUExecutionProvider" and len(on_cpu) < _MOST_NAMED:
                on_cpu.append(f"{node.name} ({node.op_type})")
    return {
        "parts": dict(parts),
        "nodes": {name: dict(counts) for name, counts in nodes.items()},
        "on_cpu": on_cpu,
    }


if __name__ == "__main__":
    sys.exit(answer(run))
