"""onnxruntime, unmodified.

It runs the folders that onnxruntime-genai loads, with the same graph and the same kernels.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna._util import extras
from kanna._util.processes import is_disposable
from kanna.errors import FormatError, MissingError
from kanna.formats.onnx import files
from kanna.hardware.cpu import default_threads
from kanna.runtimes.base import Availability, require_context
from kanna.runtimes.isolation import IsolatedEncoder, IsolatedEngine

if TYPE_CHECKING:
    from kanna.runtimes.onnx_encoder import OnnxEncoder
    from kanna.runtimes.onnx_engine import OnnxEngine
    from kanna.runtimes.onnx_static_engine import StaticOnnxEngine


def library() -> Any:
    """onnxruntime, telemetry off; raises MissingError when it is not installed or does not load."""
    _check_installed()
    return _load()


def _check_installed() -> None:
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        raise MissingError(
            "onnxruntime is not installed here",
            expected="the extra onnx",
            todo=extras.command("onnx"),
        )


@cache
def _load() -> Any:
    try:
        import onnx
        import onnxruntime
    # A wheel for another CPU or a missing shared library may raise anything.
    except Exception as error:
        raise MissingError(
            f"onnxruntime is installed but does not load: {error}", todo=extras.command("onnx")
        ) from error
    del onnx  # loaded once, like the library itself
    onnxruntime.disable_telemetry_events()
    return onnxruntime


class OnnxRuntime:
    """onnxruntime, for ONNX folders; see `Runtime`."""

    name = "onnx"
    title = "onnxruntime"
    extra = "onnx"
    summary = "onnxruntime, unmodified"
    has_thread_setting = True
    slow_on_cpu = False
    is_reference = False

    def opens(self, path: Path) -> bool:
        """A folder with the graph of a decoder or an encoder."""
        return files.is_onnx(path)

    def trained_context(self, path: Path) -> int | None:
        """The context length in genai_config.json."""
        length = files.read_folder(path).model.get("context_length")
        return int(length) if isinstance(length, (int, float)) else None

    def load(self) -> Any:
        """onnxruntime, telemetry off; raises MissingError."""
        return library()

    def available(self) -> Availability:
        """Version and devices; `ok=False` with the command that installs it where it is absent."""
        try:
            lib = library()
        except MissingError as error:
            return Availability(ok=False, how_to_install=extras.command("onnx"), remark=error.found)
        names = [n.removesuffix("ExecutionProvider") for n in lib.get_available_providers()]
        # Azure's provider calls a service: nothing is computed here.
        backends = sorted(n for n in names if n != "Azure")
        return Availability(ok=True, version=f"onnxruntime {lib.__version__}", backends=backends)

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> OnnxEngine | StaticOnnxEngine | IsolatedEngine:
        """Load a decoder's folder on the CPU, in a process of its own.

        Raises MissingError, FormatError, UsageError.
        """
        path = Path(path)
        _check_installed()
        require_context(context)
        if not files.is_onnx(path):
            raise FormatError(
                f"{path} is no ONNX folder", expected="a folder with genai_config.json"
            )
        folder = files.read_folder(path)
        if files.is_encoder(path):
            raise FormatError(
                f"{path} has no genai_config.json: it generates no text",
                todo="an encoder is verified with `kanna verify` and measured with `kanna bench`",
            )
        threads = threads or default_threads()
        if not is_disposable():
            options = {"context": context, "threads": threads}
            return IsolatedEngine(self.name, self.title, path, options)
        from kanna.runtimes.onnx_engine import OnnxEngine
        from kanna.runtimes.onnx_static_engine import StaticOnnxEngine

        engine = StaticOnnxEngine if folder.prefill else OnnxEngine
        return engine(library(), path, folder, context=context, threads=threads)

    def open_encoder(
        self, path: str | Path, *, threads: int | None = None
    ) -> OnnxEncoder | IsolatedEncoder:
        """Load an encoder's folder on the CPU, in a process of its own.

        Raises MissingError, FormatError.
        """
        path, threads = Path(path), threads or default_threads()
        _check_installed()
        folder = files.read_folder(path)
        if not files.is_encoder(path):
            raise FormatError(
                f"{path} generates text: its graph gives no vectors",
                expected="a folder that kanna made of an encoder, such as builtin:minilm-l6-v2",
            )
        if not is_disposable():
            return IsolatedEncoder(self.name, self.title, path, {"threads": threads})
        from kanna.runtimes.onnx_encoder import OnnxEncoder

        return OnnxEncoder(library(), path, folder, threads=threads)


RUNTIME = OnnxRuntime()
