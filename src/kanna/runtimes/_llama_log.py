"""llama.cpp's log, stored instead of printed: its complaints go into our error messages."""

from __future__ import annotations

import re
import sys
from collections import deque
from typing import Any

from kanna.libllama.functions import LOG_CALLBACK

_WARN, _ERROR, _CONT = 3, 4, 5
_BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute|output)\s+buffer size\s*=\s*([0-9.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_LAYER = re.compile(r"layer\s+(\d+) assigned to device (\S+?),")
_SPLITS = re.compile(r"graph(?:: nodes = \d+,)? splits = (\d+)")
_DEVICES = re.compile(
    r"^ggml_(?:backend_)?(?!load)\w*: .*(?:device|driver|failed|error)", re.IGNORECASE
)
_PURPOSE = {"model": "weights", "KV": "kv", "RS": "kv", "compute": "compute", "output": "output"}


class Log:
    """Receives every line of the library; one for the process, as llama.cpp's logger is global.

    Attributes:
        complaints: The last warnings and errors.
        buffers: Device, purpose and bytes of each buffer that was allocated.
        layers: The device of each layer of the model that was loaded last, by its number; that of
            the output is the highest.
        offloaded: Layers on a GPU, and how many there are; None where nothing was said of it.
        splits: Parts on different devices of the graph that was planned last.
        of_devices: What ggml said of devices and drivers when its backends were loaded.
        echoed: Whether each line goes to standard error, too: the last one says where a process
            was when a driver ended it.
    """

    def __init__(self) -> None:
        self.complaints: deque[str] = deque(maxlen=20)
        self.buffers: list[tuple[str, str, int]] = []
        self.layers: dict[int, str] = {}
        self.offloaded: tuple[int, int] | None = None
        self.splits = 0
        self.of_devices: deque[str] = deque(maxlen=8)
        self.echoed = False
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
        if self.echoed:
            print(line, file=sys.stderr, flush=True)
        if level >= _WARN:
            self.complaints.append(line)
        buffer = _BUFFER.search(line)
        if buffer:
            size = round(float(buffer[3]) * 2**20)
            self.buffers.append((buffer[1], _PURPOSE[buffer[2]], size))
        self._place(line)

    def _place(self, line: str) -> None:
        """Remember what a line says of where things are."""
        if layer := _LAYER.search(line):
            self.layers[int(layer[1])] = layer[2]
        elif offloaded := _OFFLOADED.search(line):
            self.offloaded = int(offloaded[1]), int(offloaded[2])
        elif splits := _SPLITS.search(line):
            self.splits = int(splits[1])
        elif _DEVICES.search(line):
            self.of_devices.append(line)

    def forget_placement(self) -> None:
        """Before a model is loaded: where another one's layers are does not matter."""
        self.layers, self.offloaded = {}, None

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
