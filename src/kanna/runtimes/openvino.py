"""OpenVINO, unmodified: runs the folders that openvino-genai loads, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna._util import extras
from kanna._util.processes import is_disposable
from kanna.errors import FormatError
from kanna.formats.openvino import FORMAT, MODEL
from kanna.hardware.cpu import default_threads
from kanna.runtimes import _packages
from kanna.runtimes.base import Availability, require_context
from kanna.runtimes.folder_text import trained_context
from kanna.runtimes.isolation import IsolatedEngine

if TYPE_CHECKING:
    from kanna.runtimes.openvino_engine import OpenVINOEngine


class OpenVINORuntime:
    """OpenVINO, for folders with a decoder's graph; see `Runtime`."""

    name = "openvino"
    title = "OpenVINO"
    extra = "openvino"
    summary = "OpenVINO, unmodified, on the CPU"
    has_thread_setting = True
    slow_on_cpu = False
    is_reference = False

    def opens(self, path: Path) -> bool:
        """A folder with openvino_model.xml."""
        return FORMAT.opens(path)

    def trained_context(self, path: Path) -> int | None:
        """The context length in config.json."""
        return trained_context(path)

    def available(self) -> Availability:
        """Version; `ok=False` with the command that installs it where it is absent."""
        return _packages.available(("openvino",), extras.command(self.extra))

    def load(self) -> Any:
        """openvino; raises MissingError."""
        return _packages.load(
            self.available(), ("openvino",), self.name, extras.command(self.extra)
        )[0]

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> OpenVINOEngine | IsolatedEngine:
        """Load a folder on the CPU, in a process of its own.

        Raises MissingError, FormatError, UsageError.
        """
        path = Path(path)
        _packages.check(self.available(), self.name, extras.command(self.extra))
        require_context(context)
        if not self.opens(path):
            raise FormatError(f"{path} is no OpenVINO folder", expected=f"a folder with {MODEL}")
        threads = threads or default_threads()
        if not is_disposable():
            options = {"context": context, "threads": threads}
            return IsolatedEngine(self.name, self.title, path, options)
        from kanna.runtimes.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(self.load(), path, context=context, threads=threads)


RUNTIME = OpenVINORuntime()
