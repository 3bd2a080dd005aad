"""An encoder whose model lives in a child process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanna._util.processes import working_folder
from kanna.errors import CrashError, KannaError
from kanna.model import F32
from kanna.runtimes.isolation import process

if TYPE_CHECKING:
    from typing_extensions import Self


class IsolatedEncoder:
    """An encoder in a process of its own; see `OnnxEncoder`.

    Args:
        runtime: The name of a runtime that opens encoders.
        title: As people write it.
        path: The folder.
        options: Of the runtime's `open_encoder`.

    Attributes:
        longest: Tokens it takes at most.
        threads: Threads it computes with.
    """

    longest: int
    threads: int

    def __init__(self, runtime: str, title: str, path: Path, options: dict[str, Any]) -> None:
        self.path, self._title = path, title
        self._child = process.start(runtime)
        request = {"folder": working_folder(), "runtime": runtime, "path": str(path)}
        try:
            answer = self._ask({"do": "open_encoder", "options": options, **request}, "loading")
        except KannaError as error:
            if not isinstance(error, CrashError):
                process.give_back(self._child)
            raise
        self.longest, self.threads = answer["facts"]["longest"], answer["facts"]["threads"]

    def _ask(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        try:
            return self._child.ask(request, f"{self._title}, {what} {self.path.name},")
        except KeyboardInterrupt:
            self._child.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        if self._child.alive():
            self._ask({"do": "close"}, "closing")
            process.give_back(self._child)

    def _rows(self, request: dict[str, Any]) -> F32:
        answer = self._ask(request, "encoding with")
        return np.array(self._child.memory.rows(answer["rows"], answer["columns"]))

    def embed(self, texts: Sequence[str]) -> F32:
        """One vector of length 1 per text, f32 [texts, hidden], pooled as the folder says."""
        return self._rows({"do": "embed", "texts": list(texts)})

    def hidden(self, ids: Sequence[int]) -> F32:
        """Hidden states of one text, f32 [tokens, hidden]."""
        return self._rows({"do": "hidden", "ids": [int(i) for i in ids]})

    @property
    def seconds(self) -> float:
        """Time of the last `hidden`."""
        return self._ask({"do": "seconds"}, "reading")["result"]

    def ids(self, text: str) -> list[int]:
        """Ids of a text, framed and cut as the model takes them."""
        return self._ask({"do": "ids", "text": text}, "reading")["result"]

    def memory(self) -> dict[str, int]:
        """Bytes by purpose."""
        return self._ask({"do": "memory"}, "reading")["result"]
