"""What the gate of a trained adapter runs: a file with it merged in, or the base with it beside.

A base that is a GGUF is run as it lies there, with the adapter as a GGUF of its own: no copy of the
model is written. Of any other one, a file in 16 bits is, or the one of a plan; how large it will be
is known before the first step.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from kanna import conversion
from kanna._util.progress import Progress, remark
from kanna._util.units import format_size
from kanna.adapters import merged_source, open_adapter
from kanna.conversion import ConversionRequest, WriteOptions, lone_adapter
from kanna.errors import OutputError
from kanna.formats import gguf
from kanna.runtimes.base import Engine
from kanna.runtimes.llamacpp import RUNTIME as LLAMA
from kanna.sources import Source, open_source
from kanna.training.planned_values import StoredTypes

_PRESET = "F16"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFile:
    """How the adapter of a base comes into llama.cpp.

    Attributes:
        source: The base model.
        folder: The same as a folder of Hugging Face with floats.
        method: How it is trained.
        types: What it is trained for; None: 16 bits.
    """

    source: Source
    folder: Path
    method: str
    types: StoredTypes | None

    @property
    def beside(self) -> bool:
        """Whether the base is run as it is, with a sum added beside it, which DoRA is none of."""
        is_sum = self.method in ("lora", "rslora")
        return self.source.kind == gguf.FORMAT.name and self.types is None and is_sum

    @property
    def preset(self) -> str:
        """What a file is written in, or the plan's file; "" where the base is run as it is."""
        if self.beside:
            return ""
        return self.types.name if self.types else _PRESET

    @property
    def _request(self) -> ConversionRequest:
        plan = self.types.plan if self.types else None
        return ConversionRequest(plan=plan, preset=None if plan else self.preset)

    def require_room(self, out: Path, progress: Progress) -> None:
        """Tell what the file will take, before the first step.

        Args:
            out: The folder that is written, beside which the file lies.
            progress: Where it is told.

        Raises:
            OutputError: The disk has not so much.
        """
        if self.beside or not LLAMA.available().ok:
            return
        planned = conversion.convert(self.source, None, self._request, format="gguf", dry_run=True)
        # With a plan, the files of two adapters are compared before.
        needed = planned.file_bytes * (2 if self.types else 1)
        home = out.absolute().parent
        free = shutil.disk_usage(home).free
        what = f"a file of {format_size(planned.file_bytes)}"
        if self.types:
            what = f"two files of {format_size(planned.file_bytes)} each"
        if needed > free:
            raise OutputError(
                f"the check at the end writes {what} for that long, and {home} has "
                f"{format_size(free)} free",
                expected=f"{format_size(needed)}",
                todo="free some space, write to another disk"
                + ("" if self.types else ", or leave the check out: --no-verify"),
            )
        remark(progress, f"The check at the end writes {what} into {home}, and removes it.")

    def open(
        self, adapter: Path, scratch: Path, *, context: int, threads: int, progress: Progress
    ) -> Engine:
        """The adapter in llama.cpp.

        Args:
            adapter: The adapter on the disk.
            scratch: A folder for what is written; the caller removes it.
            context: Tokens of the longest prompt and its answer.
            threads: Threads to use.
            progress: Where progress is reported.
        """
        scratch.mkdir(parents=True, exist_ok=True)
        options = WriteOptions(threads=threads, progress=progress)
        if self.beside:
            alone = scratch / "adapter.gguf"
            lone_adapter.convert(self.source, adapter, alone, format="gguf", options=options)
            beside: dict[str | Path, float] = {alone: 1.0}
            path = self.source.weight_files[0]
            return LLAMA.open(path, context=context, threads=threads, adapters=beside)
        path = scratch / "tuned.gguf"
        conversion.convert(self.tuned(adapter), path, self._request, format="gguf", options=options)
        return LLAMA.open(path, context=context, threads=threads)

    def tuned(self, adapter: Path) -> Source:
        """The base with the adapter merged in, as it is read again from the disk."""
        base = self.source if self.source.kind == "hf" else open_source(self.folder)
        return merged_source(base, [(open_adapter(adapter), 1.0)])
