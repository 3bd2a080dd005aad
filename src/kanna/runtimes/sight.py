"""A picture in llama.cpp: what a tower makes of it, and the logits of the token after a prompt.

A child does it (`see` starts it): a broken mmproj may end llama.cpp's process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna import libllama
from kanna._util import own_files, processes
from kanna.errors import FormatError, KannaError
from kanna.libllama import pictures
from kanna.model import F32
from kanna.runtimes._llama_log import LOG
from kanna.runtimes.llama_engine import model_parameters
from kanna.runtimes.llamacpp import check_header, library

MARKER = pictures.MARKER.decode()
"""Where a prompt has its picture."""
_CONTEXT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What llama.cpp made of a prompt with one picture.

    Attributes:
        embeddings: Of the picture's pieces, f32 [tokens, width].
        logits: Of the token after the prompt, f32 [vocabulary].
    """

    embeddings: F32
    logits: F32


def see(
    model: Path,
    mmproj: Path,
    picture: NDArray[np.uint8],
    prompt: str = MARKER,
    *,
    threads: int = 1,
) -> Seen:
    """Read a prompt with a picture in llama.cpp, in a process of its own.

    Args:
        model: The GGUF of the text.
        mmproj: The GGUF of the tower.
        picture: Red, green, blue: u8 [height, width, 3].
        prompt: It has MARKER where the picture is.
        threads: Threads to use.

    Raises:
        MissingError: llama.cpp is not installed, or does not see.
        KannaError: It refuses a file, or ended.
    """
    for path in (model, mmproj):
        if not path.is_file():
            raise FormatError(f"{path} is not a file", expected="a .gguf file")
        check_header(path)
    with own_files.scratch(label="picture") as folder:
        np.save(folder / "picture.npy", np.ascontiguousarray(picture))
        task = {
            "model": str(model),
            "mmproj": str(mmproj),
            "folder": str(folder),
            "prompt": prompt,
            "threads": threads,
        }
        processes.ask("kanna.runtimes.sight", task, "llama.cpp, reading a picture,")
        return Seen(
            embeddings=np.load(folder / "embeddings.npy"), logits=np.load(folder / "logits.npy")
        )


def _work(model: str, mmproj: str, folder: str, prompt: str, threads: int) -> dict[str, Any]:
    """The child's work: two files in `folder`."""
    library()
    lib = pictures.functions(libllama.library())
    lib.mtmd_helper_log_set(LOG.callback, None)
    where = Path(folder)
    picture = np.load(where / "picture.npy")
    with (
        _freed(_text_model(lib, model), lib.llama_model_free) as text,
        _freed(_tower(lib, mmproj, text, threads), lib.mtmd_free) as tower,
        _freed(_context(lib, text, threads), lib.llama_free) as context,
        _freed(_chunks(lib, tower, picture, prompt), lib.mtmd_input_chunks_free) as chunks,
    ):
        np.save(where / "embeddings.npy", _embeddings(lib, tower, text, chunks))
        np.save(where / "logits.npy", _logits(lib, tower, text, context, chunks))
    return {}


@contextmanager
def _freed(handle: Any, free: Any) -> Generator[Any]:
    try:
        yield handle
    finally:
        free(handle)


def _text_model(lib: Any, path: str) -> Any:
    model = lib.llama_model_load_from_file(path.encode(), model_parameters(lib, gpu_layers=0))
    if not model:
        raise FormatError(f"llama.cpp cannot load {path}: {LOG.why()}")
    return model


def _tower(lib: Any, path: str, text: Any, threads: int) -> Any:
    params = lib.mtmd_context_params_default()
    params.use_gpu = params.print_timings = params.warmup = False
    params.n_threads = threads
    LOG.clear()
    tower = lib.mtmd_init_from_file(path.encode(), text, params)
    if not tower:
        raise FormatError(
            f"llama.cpp cannot load {path} beside this model: {LOG.why()}",
            expected="an mmproj of the same checkpoint",
            todo="kanna convert SRC -o mmproj.gguf --mmproj",
        )
    return tower


def _context(lib: Any, text: Any, threads: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _CONTEXT
    params.n_outputs_max = 1
    params.n_threads = params.n_threads_batch = threads
    LOG.clear()
    context = lib.llama_init_from_model(text, params)
    if not context:
        raise KannaError(f"llama.cpp cannot make a context: {LOG.why()}")
    return context


def _chunks(lib: Any, tower: Any, picture: NDArray[np.uint8], prompt: str) -> Any:
    """The prompt in pieces: texts and the picture."""
    height, width, _ = picture.shape
    encoded = prompt.encode()
    given = pictures.InputText(encoded, len(encoded), True, True)
    data = np.ascontiguousarray(picture)
    with _freed(
        lib.mtmd_bitmap_init(width, height, data.ctypes.data), lib.mtmd_bitmap_free
    ) as bitmap:
        chunks = lib.mtmd_input_chunks_init()
        handles = (ctypes.c_void_p * 1)(bitmap)
        code = lib.mtmd_tokenize(tower, chunks, ctypes.byref(given), handles, 1)
    if code:
        raise KannaError(f"llama.cpp cannot prepare the picture (code {code}): {LOG.why()}")
    return chunks


def _embeddings(lib: Any, tower: Any, text: Any, chunks: Any) -> F32:
    width = lib.llama_model_n_embd_inp(text)
    rows: list[F32] = []
    for index in range(lib.mtmd_input_chunks_size(chunks)):
        chunk = lib.mtmd_input_chunks_get(chunks, index)
        if lib.mtmd_input_chunk_get_type(chunk) != pictures.IMAGE:
            continue
        if code := lib.mtmd_encode_chunk(tower, chunk):
            raise KannaError(f"llama.cpp cannot read the picture (code {code}): {LOG.why()}")
        shape = (lib.mtmd_input_chunk_get_n_tokens(chunk), width)
        rows.append(np.ctypeslib.as_array(lib.mtmd_get_output_embd(tower), shape).copy())
    return np.concatenate(rows).astype(np.float32)


def _logits(lib: Any, tower: Any, text: Any, context: Any, chunks: Any) -> F32:
    past = ctypes.c_int32()
    # From position 0 of sequence 0, a batch as large as the context, logits of the last token.
    begin = (0, 0, _CONTEXT, True)
    code = lib.mtmd_helper_eval_chunks(tower, context, chunks, *begin, ctypes.byref(past))
    if code:
        raise KannaError(f"llama.cpp cannot read the prompt (code {code}): {LOG.why()}")
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(text))
    row = lib.llama_get_logits_ith(context, -1)
    return np.ctypeslib.as_array(row, (size,)).astype(np.float32)


if __name__ == "__main__":
    raise SystemExit(processes.answer(_work))
