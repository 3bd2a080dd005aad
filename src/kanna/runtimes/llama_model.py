"""A GGUF that llama.cpp has loaded: its weights and its tokens, without a context yet."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kanna.errors import FormatError, KannaError, UsageError
from kanna.runtimes._llama_log import LOG

# Of llama_load_mode in llama.h.
_LOAD_WITHOUT_MAP = 0


def model_parameters(
    lib: Any,
    *,
    gpu_layers: int | None = None,
    vocab_only: bool = False,
    mmap: bool = True,
    devices: Any = None,
) -> Any:
    """llama.cpp's parameters of a model, `llama_model_params`.

    Args:
        lib: The library.
        gpu_layers: Layers to put on a GPU; None: llama.cpp's own choice.
        vocab_only: Load the tokenizer alone.
        mmap: Map the file; otherwise its tensors are read into memory of the process.
        devices: Array of ggml's devices to use, the last of which is null; None: all.
    """
    params = lib.llama_model_default_params()
    params.devices = devices
    # ggml's AMX kernels crash on matrices narrower than their tiles expect (0.3.36).
    params.use_extra_bufts = b"AMX_INT8" not in lib.llama_print_system_info()
    if gpu_layers is not None:
        params.n_gpu_layers = gpu_layers
    params.vocab_only = vocab_only
    if not mmap:
        params.load_mode = _LOAD_WITHOUT_MAP
    return params


class LlamaModel:
    """The model of a file, and how it splits text into tokens.

    Args:
        lib: The library.
        path: A GGUF.
        params: See `model_parameters`.

    Attributes:
        vocab_size: Tokens it knows.
        trained_context: Positions it was trained on.
        bos: Token that begins a text; None: none.
        eos: Token that ends one; None: none.
        adds_bos: Whether a prompt begins with `bos`.
        chat_template: The one that the file carries.

    Raises:
        FormatError: llama.cpp refuses the file.
    """

    def __init__(self, lib: Any, path: Path, params: Any) -> None:
        self._lib, self.path = lib, path
        LOG.clear()
        LOG.buffers.clear()
        LOG.forget_placement()
        self._model: Any = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise FormatError(
                f"llama.cpp cannot load {path}: {LOG.why()}",
                todo="check the file with `kanna inspect`, or convert again",
            )
        self._weights = [b for b in LOG.buffers if b[1] == "weights"]
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocab_size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.trained_context: int = lib.llama_model_n_ctx_train(self._model)
        self.bos, self.eos = (
            _id(f(self._vocab)) for f in (lib.llama_vocab_bos, lib.llama_vocab_eos)
        )
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))
        template = lib.llama_model_chat_template(self._model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None

    def close(self) -> None:
        """Free the model; may be called twice."""
        if self._model is not None:
            self._lib.llama_model_free(self._model)
        self._model = None

    @cached_property
    def parameters(self) -> int:
        """Weights of the model, as llama.cpp counts them."""
        return int(self._lib.llama_model_n_params(self._model))

    def tokenize(self, text: str, *, add_bos: bool = False, special: bool = False) -> list[int]:
        """Token ids; see `Engine.tokenize`."""
        data = text.encode("utf-8", "surrogatepass")
        size = len(data) + 8
        while True:
            ids = (ctypes.c_int32 * size)()
            count = self._lib.llama_tokenize(
                self._vocab, data, len(data), ids, size, add_bos, special
            )
            if count >= 0:
                return list(ids[:count])
            if -count <= size:
                raise KannaError(
                    f"llama.cpp cannot tokenize this text with {self.path}: {LOG.why()}"
                )
            size = -count

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; may be half a character."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; broken UTF-8 becomes U+FFFD."""
        return b"".join(self.piece(i, special=special) for i in ids).decode("utf-8", "replace")

    def eog(self, token: int) -> bool:
        """Whether the token ends a generation (end of sequence, end of turn)."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    @cached_property
    def eog_ids(self) -> frozenset[int]:
        """Ids of all tokens that end a generation."""
        return frozenset(i for i in range(self.vocab_size) if self.eog(i))

    def _check_ids(self, ids: Sequence[int]) -> None:
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise UsageError(
                f"token ids {min(ids)} … {max(ids)}", expected=f"0 … {self.vocab_size - 1}"
            )


def _id(token: int) -> int | None:
    return None if token < 0 else token
