"""llama.cpp's log, stored instead of printed: its complaints go into our error messages."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from kanna.libllama.functions import LOG_CALLBACK

_WARN, _ERROR, _CONT = 3, 4, 5
_BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute|output)\s+buffer size\s*=\s*([0-9.]+) MiB")
_PURPOSE = {"model": "weights", "KV": "kv", "RS": "kv", "compute": "compute", "output": "output"}


class Log:
    """Receives every line of the library; one for the process, as llama.cpp's logger is global.

    Attributes:
        complaints: The last warnings and errors.
        buffers: Device, purpose and bytes of each buffer that was allocated.
    """

    def __init__(self) -> None:
        self.complaints: deque[str] = deque(maxlen=20)
        self.buffers: list[tuple[str, str, int]] = []
        self._level = 0
        self._callback: Any = None

    def attach(self, library: Any) -> None:
        """Route the library's log here.

        The callback object must outlive the library's use of it.
        """
        library.llama_log_set(self.callback, None)

    @property
    def callback(self) -> Any:
        """What the library calls with each line; one for the process."""
        if self._callback is None:
            self._callback = LOG_CALLBACK(self._receive)
        return self._callback

    def _receive(self, level: int, text: bytes, _data: Any) -> None:
        # An exception in a C callback would be printed by ctypes, so nothing here may raise.
        line = text.decode("utf-8", "replace").strip() if text else ""
        level = self._level if level == _CONT else level
        self._level = level
        if not line:
            return
        if level >= _WARN:
            self.complaints.append(line)
        buffer = _BUFFER.search(line)
        if buffer:
            size = round(float(buffer[3]) * 2**20)
            self.buffers.append((buffer[1], _PURPOSE[buffer[2]], size))

    def clear(self) -> None:
        """Forget the complaints."""
        self.complaints.clear()

    def why(self) -> str:
        """The most useful complaint since `clear`: the first error, without the function names."""
        useful = [re.sub(r"^(?:\w+:\s+)+", "", c) for c in self.complaints]
        relevant = [
            u
            for u in useful
            if re.search(r"error|fail|invalid|unknown|missing|not |cannot|unsupported", u)
        ]
        return (relevant or useful or ["llama.cpp gave no reason"])[0]


LOG = Log()
