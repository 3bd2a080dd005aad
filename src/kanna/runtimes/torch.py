"""transformers in float32: runs Hugging Face folders, and is the reference of all runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna._util import extras
from kanna.errors import FormatError
from kanna.hardware.cpu import default_threads
from kanna.runtimes import _packages
from kanna.runtimes.base import Availability, require_context
from kanna.runtimes.folder_text import trained_context

if TYPE_CHECKING:
    from kanna.runtimes.torch_engine import TorchEngine

_NEEDED = ("torch", "transformers")


class TorchRuntime:
    """transformers, for Hugging Face folders; see `Runtime`."""

    name = "torch"
    title = "transformers"
    extra = "torch"
    summary = (
        "transformers in float32: runs Hugging Face folders, and is the reference of all runtimes"
    )
    has_thread_setting = True
    slow_on_cpu = False
    is_reference = True

    def opens(self, path: Path) -> bool:
        """A folder with config.json and safetensors files."""
        return (
            path.is_dir() and (path / "config.json").is_file() and any(path.glob("*.safetensors"))
        )

    def trained_context(self, path: Path) -> int | None:
        """The context length in config.json."""
        return trained_context(path)

    def available(self) -> Availability:
        """Version; `ok=False` with the command that installs it where it is absent."""
        return _packages.available(_NEEDED, extras.command("torch"))

    def load(self) -> list[Any]:
        """PyTorch and transformers; raises MissingError."""
        return _packages.load(
            self.available(), ("torch", "transformers"), self.name, extras.command("torch")
        )

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> TorchEngine:
        """Load a folder in float32 on the CPU. Raises MissingError, FormatError, UsageError."""
        path = Path(path)
        torch, transformers = self.load()
        require_context(context)
        if not self.opens(path):
            raise FormatError(
                f"{path} is no Hugging Face folder", expected="config.json and safetensors files"
            )
        from kanna.runtimes.torch_engine import TorchEngine

        return TorchEngine(
            torch, transformers, path, context=context, threads=threads or default_threads()
        )


RUNTIME = TorchRuntime()
