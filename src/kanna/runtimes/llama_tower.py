"""A vision tower in llama.cpp, beside the model of text that reads what it sees (mtmd)."""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna import libllama
from kanna.errors import FormatError, KannaError, UsageError
from kanna.formats.pictures import EXPECTED
from kanna.libllama import pictures
from kanna.model import F32
from kanna.runtimes._llama_log import LOG

MARKER = pictures.MARKER.decode()
"""Where a prompt has a picture."""
_NO_PROGRAMS = b"/nonexistent"
"""Where programs for videos would be: a file that is no picture is given to none."""

Given = bytes | NDArray[np.uint8]
"""A picture: the bytes of a file, or red, green and blue as u8 [height, width, 3]."""


class LlamaTower:
    """A vision tower; freed before its model of text.

    Args:
        path: The mmproj.
        text: llama.cpp's handle of the model of text.
        threads: Threads to use.

    Raises:
        MissingError: This build of llama.cpp does not see.
        FormatError: llama.cpp refuses the file, or it is of another model.
    """

    def __init__(self, path: str | Path, text: Any, threads: int) -> None:
        self._lib = lib = pictures.functions(libllama.library())
        self._text = text
        lib.mtmd_helper_log_set(LOG.callback, None)
        params = lib.mtmd_context_params_default()
        params.use_gpu = params.print_timings = params.warmup = False
        params.n_threads = threads
        LOG.clear()
        self._handle: Any = lib.mtmd_init_from_file(str(path).encode(), text, params)
        if not self._handle:
            raise FormatError(
                f"llama.cpp cannot load {path} beside this model: {LOG.why()}",
                expected="an mmproj of the same checkpoint",
                todo="kanna convert SRC -o mmproj.gguf --mmproj",
            )

    def close(self) -> None:
        """Free it; may be called twice."""
        if self._handle:
            self._lib.mtmd_free(self._handle)
        self._handle = None

    @contextmanager
    def pieces(self, prompt: str, seen: Sequence[Given]) -> Generator[Any]:
        """llama.cpp's pieces of a prompt, texts and pictures, for the length of the block.

        Args:
            prompt: It has as many MARKERs as there are pictures.
            seen: The pictures, in their order.

        Raises:
            UsageError: There are more or fewer markers than pictures.
            FormatError: A picture cannot be decoded.
        """
        if (count := prompt.count(MARKER)) != len(seen):
            raise UsageError(
                f"a prompt with {count} places for {len(seen)} pictures",
                expected=f"{MARKER} once for each picture",
            )
        lib, encoded = self._lib, prompt.encode("utf-8", "replace")
        given = pictures.InputText(encoded, len(encoded), True, True)
        with ExitStack() as stack:
            bitmaps = [stack.enter_context(self._bitmap(one)) for one in seen]
            handles = (ctypes.c_void_p * max(1, len(bitmaps)))(*bitmaps)
            chunks = lib.mtmd_input_chunks_init()
            stack.callback(lib.mtmd_input_chunks_free, chunks)
            LOG.clear()
            code = lib.mtmd_tokenize(
                self._handle, chunks, ctypes.byref(given), handles, len(bitmaps)
            )
            if code:
                raise KannaError(f"llama.cpp cannot prepare the picture (code {code}): {LOG.why()}")
            yield chunks

    @contextmanager
    def _bitmap(self, seen: Given) -> Generator[Any]:
        bitmap = decoded(self._lib, seen) if isinstance(seen, bytes) else self._colours(seen)
        try:
            yield bitmap
        finally:
            self._lib.mtmd_bitmap_free(bitmap)

    def _colours(self, seen: NDArray[np.uint8]) -> Any:
        data = np.ascontiguousarray(seen)
        height, width, _ = data.shape
        return self._lib.mtmd_bitmap_init(width, height, data.ctypes.data)

    def tokens(self, pieces: Any) -> int:
        """Tokens of a prompt: of its texts, and those that pictures become."""
        return int(self._lib.mtmd_helper_get_n_tokens(pieces))

    def embeddings(self, pieces: Any) -> F32:
        """What the tower makes of the pictures, f32 [tokens, width]."""
        lib, width = self._lib, self._lib.llama_model_n_embd_inp(self._text)
        rows: list[F32] = []
        for index in range(lib.mtmd_input_chunks_size(pieces)):
            chunk = lib.mtmd_input_chunks_get(pieces, index)
            if lib.mtmd_input_chunk_get_type(chunk) != pictures.IMAGE:
                continue
            if code := lib.mtmd_encode_chunk(self._handle, chunk):
                raise KannaError(f"llama.cpp cannot read the picture (code {code}): {LOG.why()}")
            shape = (lib.mtmd_input_chunk_get_n_tokens(chunk), width)
            rows.append(np.ctypeslib.as_array(lib.mtmd_get_output_embd(self._handle), shape).copy())
        return np.concatenate(rows).astype(np.float32)

    def read(self, pieces: Any, context: Any, batch: int) -> None:
        """Compute a prompt from position 0 of an empty context, up to the logits of its last token.

        Args:
            pieces: Of the prompt.
            context: llama.cpp's handle.
            batch: Tokens computed together.

        Raises:
            KannaError: llama.cpp failed.
        """
        past = ctypes.c_int32()
        LOG.clear()
        begin = (0, 0, batch, True)  # position, sequence, tokens together, logits of the last
        code = self._lib.mtmd_helper_eval_chunks(
            self._handle, context, pieces, *begin, ctypes.byref(past)
        )
        if code:
            raise KannaError(f"llama.cpp cannot read the prompt (code {code}): {LOG.why()}")


def decoded(lib: Any, data: bytes) -> Any:
    """llama.cpp's picture of a file, whose header was checked; to be freed.

    Args:
        lib: What `libllama.pictures.functions` gives.
        data: The file.

    Raises:
        FormatError: It cannot be decoded.
    """
    options = lib.mtmd_helper_init_opt_default()
    options.programs = _NO_PROGRAMS
    bitmap = lib.mtmd_helper_bitmap_init_from_buf(None, data, len(data), False, options).bitmap
    if not bitmap:
        raise FormatError(
            "a picture cannot be decoded: it is damaged", expected=EXPECTED, todo="save it again"
        )
    return bitmap
