"""A picture in llama.cpp: what a tower makes of it, and the logits of the token after a prompt.

A child does it (`see` starts it): a broken mmproj may end llama.cpp's process.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager
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
from kanna.runtimes.llama_model import model_parameters
from kanna.runtimes.llama_tower import MARKER, LlamaTower
from kanna.runtimes.llamacpp import check_header, library

__all__ = ["MARKER", "Seen", "see"]

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
    where = Path(folder)
    picture = np.load(where / "picture.npy")
    with (
        _freed(_text_model(lib, model), lib.llama_model_free) as text,
        closing(LlamaTower(mmproj, text, threads)) as tower,
        _freed(_context(lib, text, threads), lib.llama_free) as context,
        tower.pieces(prompt, [picture]) as pieces,
    ):
        np.save(where / "embeddings.npy", tower.embeddings(pieces))
        tower.read(pieces, context, _CONTEXT)
        size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(text))
        row = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (size,))
        np.save(where / "logits.npy", row.astype(np.float32))
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


if __name__ == "__main__":
    raise SystemExit(processes.answer(_work))
