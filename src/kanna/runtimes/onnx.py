"""onnxruntime, unmodified.

Runs the folders that onnxruntime-genai loads, by the same graph and the same kernels.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import FormatError, MissingError, UsageError
from kanna.formats.onnx import files
from kanna.hardware.cpu import default_threads
from kanna.runtimes.base import Availability

if TYPE_CHECKING:
    from kanna.runtimes.onnx_encoder import OnnxEncoder
    from kanna.runtimes.onnx_engine import OnnxEngine

INSTALL = 'pip install "kanna[onnx]"'


def library() -> Any:
    """onnxruntime, telemetry off; raises MissingError when it is not installed or does not load."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        raise MissingError(
            "onnxruntime is not installed here", expected="the extra onnx", todo=INSTALL
        )
    return _load()


@cache
def _load() -> Any:
    try:
        import onnx
        import onnxruntime
    except (
        Exception
    ) as error:  # a wheel for another CPU or a missing shared library: whatever it raises
        raise MissingError(
            f"onnxruntime is installed but does not load: {error}", todo=INSTALL
        ) from error
    del onnx  # loaded once, like the library itself
    onnxruntime.disable_telemetry_events()
    return onnxruntime


class Onnx:
    """The runtime for ONNX folders."""

    name = "onnx"
    extra = "onnx"

    def opens(self, path: Path) -> bool:
        return files.is_onnx(path)

    def available(self) -> Availability:
        """Never raises: an absent or broken installation is `ok=False` with the command that installs it."""
        try:
            lib = library()
        except MissingError as error:
            return Availability(ok=False, how_to_install=INSTALL, remark=error.found)
        names = [n.removesuffix("ExecutionProvider") for n in lib.get_available_providers()]
        backends = sorted(
            n for n in names if n != "Azure"
        )  # calls a service: nothing is computed here
        return Availability(ok=True, version=f"onnxruntime {lib.__version__}", backends=backends)

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> OnnxEngine:
        """Load a decoder's folder on the CPU.

        Raises MissingError, FormatError, UsageError.

        Args:
            context: In tokens; 0: as trained.
            threads: None: one per physical core.
        """
        path = Path(path)
        lib = library()
        if context < 0:
            raise UsageError(f"a context of {context} tokens", expected="0 (as trained) or more")
        if not files.is_onnx(path):
            raise FormatError(
                f"{path} is no ONNX folder", expected="a folder with genai_config.json"
            )
        found = files.read_folder(path)
        if files.is_encoder(path):
            raise FormatError(
                f"{path} has no genai_config.json: it generates no text",
                todo="an encoder is verified with `kanna verify` and measured with `kanna bench`",
            )
        from kanna.runtimes.onnx_engine import OnnxEngine

        return OnnxEngine(lib, path, found, context=context, threads=threads or default_threads())

    def open_encoder(self, path: str | Path, *, threads: int | None = None) -> OnnxEncoder:
        """Load an encoder's folder on the CPU. Raises MissingError, FormatError."""
        path, lib = Path(path), library()
        from kanna.runtimes.onnx_encoder import OnnxEncoder

        return OnnxEncoder(lib, path, files.read_folder(path), threads=threads or default_threads())


RUNTIME = Onnx()
