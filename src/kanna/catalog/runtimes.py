"""Components of the kind `runtimes`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from kanna import runtimes
from kanna.catalog.base import Component, Kind, of_module, options

_ABOUT = {
    "context": "Tokens of prompt and answer together; 0: as trained",
    "threads": "Threads to compute with; None: one per physical core",
    "gpu_layers": "Layers to put on the GPU; None: the runtime's choice",
    "vocab_only": "Load the tokenizer alone",
    "cache": "Encoding of cached keys and values",
    "adapters": "LoRA adapters with the scale of each; 1 is as trained",
    "mmap": "Map the file; otherwise its tensors are read into memory of the process",
}


def _find() -> Iterator[Component]:
    for name in runtimes.names():
        runtime = runtimes.get(name)
        module = importlib.import_module(type(runtime).__module__)
        opened = options(runtime.open, without=("path",), about=_ABOUT)
        yield of_module(
            "runtimes",
            name,
            module,
            "RUNTIME",
            summary=runtime.summary,
            extra=runtime.extra,
            options=opened,
        )


KIND = Kind(
    summary=(
        "Runtimes: what runs a file, unmodified, for checks, evaluation, benches and generation"
    ),
    find=_find,
)
