"""mlx-lm, unmodified: runs the folders that it or kanna wrote."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import FormatError, MissingError, UsageError
from kanna.formats import mlx
from kanna.hardware.cpu import default_threads
from kanna.runtimes.base import Availability

if TYPE_CHECKING:
    from kanna.runtimes._mlx_engine import MlxEngine

INSTALL = 'pip install "kanna[mlx]"'
_NEEDED = ("mlx", "mlx_lm")


class Mlx:
    """The runtime for MLX folders."""

    name = "mlx"

    def opens(self, path: Path) -> bool:
        return path.is_dir() and mlx.is_folder(path)

    def available(self) -> Availability:
        """Whether mlx and mlx-lm are installed; neither is imported, which takes seconds."""
        if absent := [n.replace("_", "-") for n in _NEEDED if importlib.util.find_spec(n) is None]:
            remark = f"{' and '.join(absent)} not installed here"
            return Availability(ok=False, how_to_install=INSTALL, remark=remark)
        # No device is named: to ask for them is to import it.
        return Availability(ok=True, version=f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}", backends=["CPU"])

    def load(self) -> tuple[Any, Any]:
        """Import mlx.core and mlx_lm; raises MissingError."""
        here = self.available()
        if not here.ok:
            raise MissingError(here.remark, expected="the extra mlx", todo=INSTALL)
        try:
            import mlx.core as mx
            import mlx_lm
        except Exception as error:  # a wheel for another machine or a missing shared library: whatever it raises
            raise MissingError(f"mlx is installed but does not load: {error}", todo=INSTALL) from error
        return mx, mlx_lm

    def open(
        self, path: str | Path, *, context: int = 4096, threads: int | None = None, gpu_layers: int | None = None
    ) -> MlxEngine:
        """Load an MLX folder on mlx's own device. Raises MissingError, FormatError, UsageError."""
        path = Path(path)
        mx, mlx_lm = self.load()
        if context < 0:
            raise UsageError(f"a context of {context} tokens", expected="0 (as trained) or more")
        if not self.opens(path):
            raise FormatError(f"{path} is no MLX folder", expected="config.json and safetensors that mlx-lm wrote")
        from kanna.runtimes._mlx_engine import MlxEngine

        return MlxEngine(mx, mlx_lm, path, context=context, threads=threads or default_threads())


RUNTIME = Mlx()
