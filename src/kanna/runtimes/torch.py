"""transformers in float32, unmodified: runs Hugging Face folders, and is the reference that all runtimes share."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import FormatError, MissingError, UsageError
from kanna.hardware.cpu import default_threads
from kanna.runtimes.base import Availability

if TYPE_CHECKING:
    from kanna.runtimes._torch_engine import TorchEngine

INSTALL = 'pip install "kanna[torch]"'
_NEEDED = ("torch", "transformers")


class Torch:
    """The runtime for Hugging Face folders."""

    name = "torch"

    def opens(self, path: Path) -> bool:
        return path.is_dir() and (path / "config.json").is_file() and any(path.glob("*.safetensors"))

    def available(self) -> Availability:
        """Whether torch and transformers are installed; neither is imported, which takes seconds."""
        if absent := [n for n in _NEEDED if importlib.util.find_spec(n) is None]:
            remark = f"{' and '.join(absent)} not installed here"
            return Availability(ok=False, how_to_install=INSTALL, remark=remark)
        return Availability(ok=True, version=", ".join(f"{n} {version(n)}" for n in _NEEDED), backends=["CPU"])

    def load(self) -> tuple[Any, Any]:
        """Import torch and transformers; raises MissingError."""
        here = self.available()
        if not here.ok:
            raise MissingError(here.remark, expected="the extra torch", todo=INSTALL)
        try:
            import torch
            import transformers
        except Exception as error:  # a wheel for another CPU or a missing shared library: whatever it raises
            raise MissingError(f"torch is installed but does not load: {error}", todo=INSTALL) from error
        return torch, transformers

    def open(
        self, path: str | Path, *, context: int = 4096, threads: int | None = None, gpu_layers: int | None = None
    ) -> TorchEngine:
        """Load a Hugging Face folder in float32 on the CPU. Raises MissingError, FormatError, UsageError."""
        path = Path(path)
        torch, transformers = self.load()
        if context < 0:
            raise UsageError(f"a context of {context} tokens", expected="0 (as trained) or more")
        if not self.opens(path):
            raise FormatError(f"{path} is no Hugging Face folder", expected="config.json and safetensors files")
        from kanna.runtimes._torch_engine import TorchEngine

        return TorchEngine(torch, transformers, path, context=context, threads=threads or default_threads())


RUNTIME = Torch()
