"""mlx-lm, unmodified: runs the folders that it or kanna wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna._util import extras
from kanna._util.hidden_packages import UNUSED_BY_MLX
from kanna._util.processes import is_disposable
from kanna.errors import FormatError
from kanna.formats import mlx, safetensors
from kanna.hardware.cpu import default_threads
from kanna.runtimes import _packages
from kanna.runtimes.base import Availability, require_context
from kanna.runtimes.folder_text import read_json, trained_context
from kanna.runtimes.isolation import IsolatedEngine

if TYPE_CHECKING:
    from kanna.runtimes.mlx_engine import MlxEngine

_NEEDED = ("mlx", "mlx-lm")


class MlxRuntime:
    """mlx-lm, for MLX folders; see `Runtime`."""

    name = "mlx"
    title = "mlx-lm"
    extra = "mlx"
    summary = "mlx-lm, unmodified: runs the folders that it or kanna wrote"
    has_thread_setting = False
    slow_on_cpu = True
    is_reference = False
    unneeded = UNUSED_BY_MLX

    def opens(self, path: Path) -> bool:
        """A folder that mlx-lm or kanna wrote."""
        return path.is_dir() and mlx.is_folder(path)

    def trained_context(self, path: Path) -> int | None:
        """The context length in config.json."""
        return trained_context(path)

    def available(self) -> Availability:
        """Version; `ok=False` with the command that installs it where it is absent."""
        return _packages.available(_NEEDED, extras.command("mlx"))

    def load(self) -> list[Any]:
        """mlx.core and mlx_lm; raises MissingError."""
        return _packages.load(
            self.available(), ("mlx.core", "mlx_lm"), self.name, extras.command("mlx")
        )

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> MlxEngine | IsolatedEngine:
        """Load an MLX folder on mlx's own device, in a process of its own.

        Raises MissingError, FormatError, UsageError.
        """
        path = Path(path)
        _packages.check(self.available(), self.name, extras.command("mlx"))
        require_context(context)
        if not self.opens(path):
            raise FormatError(
                f"{path} is no MLX folder", expected="config.json and safetensors that mlx-lm wrote"
            )
        check(path)
        threads = threads or default_threads()
        if not is_disposable():
            options = {"context": context, "threads": threads}
            return IsolatedEngine(self.name, self.title, path, options)
        from kanna.runtimes.mlx_engine import MlxEngine

        mx, mlx_lm = self.load()
        return MlxEngine(mx, mlx_lm, path, context=context, threads=threads)


def check(path: Path) -> None:
    """Raise KannaError for a folder whose headers do not fit together.

    mlx-lm loads such a folder, and fails at its first token.
    """
    config, tensors = read_json(path / "config.json"), safetensors.read_folder(path)
    if mlx.is_mlx(config):
        mlx.unpacked(tensors, config)


RUNTIME = MlxRuntime()
