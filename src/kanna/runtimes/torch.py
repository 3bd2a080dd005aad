"""transformers in float32, unmodified.

Runs Hugging Face folders, and is the reference that all runtimes share.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import FormatError, UsageError
from kanna.hardware.cpu import default_threads
from kanna.runtimes import _packages
from kanna.runtimes.base import Availability

if TYPE_CHECKING:
    from kanna.runtimes.torch_engine import TorchEngine

INSTALL = 'pip install "kanna[torch]"'
_NEEDED = ("torch", "transformers")


class Torch:
    """The runtime for Hugging Face folders."""

    name = "torch"
    extra = "torch"

    def opens(self, path: Path) -> bool:
        return (
            path.is_dir() and (path / "config.json").is_file() and any(path.glob("*.safetensors"))
        )

    def available(self) -> Availability:
        return _packages.available(_NEEDED, INSTALL)

    def load(self) -> list[Any]:
        """torch and transformers; raises MissingError."""
        return _packages.load(self.available(), ("torch", "transformers"), self.name, INSTALL)

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> TorchEngine:
        """Load a Hugging Face folder in float32 on the CPU.

        Raises MissingError, FormatError, UsageError.
        """
        path = Path(path)
        torch, transformers = self.load()
        if context < 0:
            raise UsageError(f"a context of {context} tokens", expected="0 (as trained) or more")
        if not self.opens(path):
            raise FormatError(
                f"{path} is no Hugging Face folder", expected="config.json and safetensors files"
            )
        from kanna.runtimes.torch_engine import TorchEngine

        return TorchEngine(
            torch, transformers, path, context=context, threads=threads or default_threads()
        )


RUNTIME = Torch()
