"""What runs folders of the format: transformers, on their decoded values."""

from __future__ import annotations

import tempfile
from pathlib import Path

from helpers.dummy_format.container import FORMAT
from kanna import convert
from kanna._util.hidden_packages import BESIDE_TRANSFORMERS, QUANTIZERS
from kanna.runtimes import Availability, Engine
from kanna.runtimes.folder_text import trained_context
from kanna.runtimes.torch import RUNTIME as TORCH


class DummyRuntime:
    """Decodes a folder into float32, and has transformers open that."""

    name = "dummy"
    title = "the dummy"
    summary = "A runtime of another distribution"
    extra = "torch"
    has_thread_setting = True
    slow_on_cpu = False
    is_reference = False
    unneeded = (*BESIDE_TRANSFORMERS, *QUANTIZERS)

    def opens(self, path: Path) -> bool:
        """A folder with the marker of the format."""
        return FORMAT.opens(path)

    def trained_context(self, path: Path) -> int | None:
        """The context length in config.json."""
        return trained_context(path)

    def available(self) -> Availability:
        """As transformers is."""
        return TORCH.available()

    def load(self) -> object:
        """As transformers is."""
        return TORCH.load()

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> Engine:
        """Load a folder."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "decoded"
            convert(path, folder, format="safetensors", encoding="f32", threads=threads)
            engine = TORCH.open(folder, context=context, threads=threads)
        engine.path = Path(path)
        return engine


RUNTIME = DummyRuntime()
