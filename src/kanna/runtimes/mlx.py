"""mlx-lm, unmodified: runs the folders that it or kanna wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import FormatError, UsageError
from kanna.formats import mlx, safetensors
from kanna.hardware.cpu import default_threads
from kanna.runtimes import _packages
from kanna.runtimes.base import Availability
from kanna.runtimes.folder_text import read_json

if TYPE_CHECKING:
    from kanna.runtimes.mlx_engine import MlxEngine

INSTALL = 'pip install "kanna[mlx]"'
_NEEDED = ("mlx", "mlx-lm")


class Mlx:
    """The runtime for MLX folders."""

    name = "mlx"
    extra = "mlx"

    def opens(self, path: Path) -> bool:
        return path.is_dir() and mlx.is_folder(path)

    def available(self) -> Availability:
        return _packages.available(_NEEDED, INSTALL)

    def load(self) -> list[Any]:
        """mlx.core and mlx_lm; raises MissingError."""
        return _packages.load(self.available(), ("mlx.core", "mlx_lm"), self.name, INSTALL)

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> MlxEngine:
        """Load an MLX folder on mlx's own device. Raises MissingError, FormatError, UsageError."""
        path = Path(path)
        mx, mlx_lm = self.load()
        if context < 0:
            raise UsageError(f"a context of {context} tokens", expected="0 (as trained) or more")
        if not self.opens(path):
            raise FormatError(
                f"{path} is no MLX folder", expected="config.json and safetensors that mlx-lm wrote"
            )
        check(path)
        from kanna.runtimes.mlx_engine import MlxEngine

        return MlxEngine(mx, mlx_lm, path, context=context, threads=threads or default_threads())


def check(path: Path) -> None:
    """Raise KannaError for what headers tell is wrong.

    Mlx-lm loads such a folder, and fails at its first token.
    """
    config, tensors = read_json(path / "config.json"), safetensors.read_folder(path)
    if mlx.is_mlx(config):
        mlx.unpacked(tensors, config)


RUNTIME = Mlx()
