"""Guesses of draft models counted in llama.cpp, from files as a device has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import conversion
from kanna._util import own_files
from kanna._util.progress import Progress
from kanna.benchmark import guesses
from kanna.conversion import ConversionRequest, WriteOptions
from kanna.runtimes.llamacpp import RUNTIME as LLAMA
from kanna.sources import Source

_PRESET = "F16"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeCount:
    """What is drafted for, and after what.

    Attributes:
        target: The model.
        prompts: A file of prompts after which it writes.
        scratch: A folder for files in 16 bits, removed in the end.
        threads: Threads to use.
        progress: Where progress is reported.
    """

    target: Source
    prompts: Path
    scratch: Path
    threads: int
    progress: Progress

    def of(self, drafts: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
        """Figures of each draft model by its name, see `kanna.benchmark.drafting.figures`.

        Where llama.cpp is not installed there are none.

        Args:
            drafts: The models that draft.
        """
        if not LLAMA.available().ok:
            return {}
        self.scratch.mkdir(parents=True, exist_ok=True)
        try:
            target = self._written(self.target, "target")
            files = {name: self._written(source, name) for name, source in drafts.items()}
            return {
                name: guesses.counted(target, file, threads=self.threads, prompts=str(self.prompts))
                for name, file in files.items()
            }
        finally:
            own_files.remove(self.scratch)

    def _written(self, source: Source, name: str) -> Path:
        path = self.scratch / f"{name}.gguf"
        conversion.convert(
            source,
            path,
            ConversionRequest(preset=_PRESET),
            format="gguf",
            options=WriteOptions(threads=self.threads, progress=self.progress, overwrite=True),
        )
        return path
