"""An encoder's graph in an onnxruntime session: text to vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.formats.onnx.files import Folder
from kanna.model import F32
from kanna.runtimes.folder_text import FolderText, read_json
from kanna.runtimes.onnx_session import session


class OnnxEncoder:
    """One encoder; a context manager.

    Attributes:
        longest: Tokens it takes at most.
        seconds: Time of the last `hidden`.
    """

    def __init__(self, lib: Any, path: Path, folder: Folder, *, threads: int) -> None:
        self.path, self.threads, self._folder = path, threads, folder
        config = read_json(path / "config.json")
        self.text = FolderText(path, [config])
        self.longest = int(config.get("max_position_embeddings") or 512)
        pooling = read_json(path / "1_Pooling" / "config.json")
        self._first_token = bool(pooling.get("pooling_mode_cls_token"))
        self._session: Any = session(lib, folder.graph, threads)
        self._inputs = [i.name for i in self._session.get_inputs()]
        self.seconds = 0.0

    def __enter__(self) -> OnnxEncoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._session = None

    def hidden(self, ids: Sequence[int]) -> F32:
        """Hidden states of one text, f32 [tokens, hidden]."""
        row = np.array([ids], np.int64)
        inputs = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "token_type_ids": np.zeros_like(row),
        }
        begin = time.perf_counter()
        out = self._session.run(None, {n: inputs[n] for n in self._inputs})[0]
        self.seconds = time.perf_counter() - begin
        return out[0]

    def ids(self, text: str) -> list[int]:
        """Ids of a text, framed and cut as the model takes them."""
        ids = self.text.tokenize(text, add_bos=True)
        return ids if len(ids) <= self.longest else [*ids[: self.longest - 1], ids[-1]]

    def embed(self, texts: Sequence[str]) -> F32:
        """One vector of length 1 per text, f32 [texts, hidden], pooled as the folder says."""
        return np.stack([pool(self.hidden(self.ids(t)), first=self._first_token) for t in texts])

    def memory(self) -> dict[str, int]:
        """Bytes of the weights on disk."""
        return {"weights": self._folder.nbytes}


def pool(hidden: F32, *, first: bool = False) -> F32:
    """The mean of hidden states [tokens, hidden], or the first of them, at length 1."""
    vector = hidden[0] if first else hidden.mean(axis=0)
    return vector / np.linalg.norm(vector)
