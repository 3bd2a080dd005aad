"""llama.cpp's part that sees, mtmd: its functions, and its parameters held to their defaults."""

from __future__ import annotations

import ctypes
from typing import Any

from kanna.errors import MissingError
from kanna.libllama.functions import LOG_CALLBACK
from kanna.libllama.interface import Library

_HANDLE, _TEXT, _INT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_size_t
MARKER = b"<__media__>"
"""Where a prompt has its picture, unless other parameters say so."""
IMAGE = 1
"""mtmd_input_chunk_type of a picture."""


class SightParameters(ctypes.Structure):
    """mtmd_context_params, since llama.cpp b11000."""

    _fields_ = (
        ("use_gpu", ctypes.c_bool),
        ("device", _HANDLE),
        ("print_timings", ctypes.c_bool),
        ("n_threads", ctypes.c_int),
        ("image_marker", _TEXT),
        ("media_marker", _TEXT),
        ("flash_attn_type", ctypes.c_int),
        ("warmup", ctypes.c_bool),
        ("image_min_tokens", ctypes.c_int),
        ("image_max_tokens", ctypes.c_int),
        ("cb_eval", _HANDLE),
        ("cb_eval_user_data", _HANDLE),
        ("batch_max_tokens", _INT),
        ("progress_callback", _HANDLE),
        ("progress_callback_user_data", _HANDLE),
    )


class InputText(ctypes.Structure):
    """mtmd_input_text: a prompt with a marker where the picture is."""

    _fields_ = (
        ("text", _TEXT),
        ("text_len", _SIZE),
        ("add_special", ctypes.c_bool),
        ("parse_special", ctypes.c_bool),
    )


class VideoParameters(ctypes.Structure):
    """mtmd_helper_init_opt: how a video is read, which kanna never gives."""

    _fields_ = (
        ("fps", ctypes.c_float),
        ("programs", _TEXT),
        ("timestamp_interval", ctypes.c_int64),
    )


class Bitmap(ctypes.Structure):
    """mtmd_helper_bitmap_wrapper: a picture as colours; no video."""

    _fields_ = (("bitmap", _HANDLE), ("video", _HANDLE))


_DEFAULTS = {
    "use_gpu": True,
    "device": None,
    "print_timings": True,
    "n_threads": 4,
    "image_marker": None,
    "media_marker": MARKER,
    "flash_attn_type": -1,
    "warmup": True,
    "image_min_tokens": -1,
    "image_max_tokens": -1,
    "cb_eval": None,
    "batch_max_tokens": 1024,
    "progress_callback": None,
}
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_model_n_embd_inp": (_INT, (_HANDLE,)),
    "mtmd_context_params_default": (SightParameters, ()),
    "mtmd_init_from_file": (_HANDLE, (_TEXT, _HANDLE, SightParameters)),
    "mtmd_free": (None, (_HANDLE,)),
    "mtmd_helper_log_set": (None, (LOG_CALLBACK, _HANDLE)),
    "mtmd_bitmap_init": (_HANDLE, (ctypes.c_uint32, ctypes.c_uint32, _HANDLE)),
    "mtmd_bitmap_free": (None, (_HANDLE,)),
    "mtmd_bitmap_get_nx": (ctypes.c_uint32, (_HANDLE,)),
    "mtmd_bitmap_get_ny": (ctypes.c_uint32, (_HANDLE,)),
    "mtmd_helper_init_opt_default": (VideoParameters, ()),
    "mtmd_helper_bitmap_init_from_buf": (
        Bitmap,
        (_HANDLE, _TEXT, _SIZE, ctypes.c_bool, VideoParameters),
    ),
    "mtmd_input_chunks_init": (_HANDLE, ()),
    "mtmd_input_chunks_free": (None, (_HANDLE,)),
    "mtmd_input_chunks_size": (_SIZE, (_HANDLE,)),
    "mtmd_input_chunks_get": (_HANDLE, (_HANDLE, _SIZE)),
    "mtmd_input_chunk_get_type": (ctypes.c_int, (_HANDLE,)),
    "mtmd_input_chunk_get_n_tokens": (_SIZE, (_HANDLE,)),
    "mtmd_tokenize": (
        _INT,
        (_HANDLE, _HANDLE, ctypes.POINTER(InputText), ctypes.POINTER(_HANDLE), _SIZE),
    ),
    "mtmd_helper_get_n_tokens": (_SIZE, (_HANDLE,)),
    "mtmd_encode_chunk": (_INT, (_HANDLE, _HANDLE)),
    "mtmd_get_output_embd": (ctypes.POINTER(ctypes.c_float), (_HANDLE,)),
    "mtmd_helper_eval_chunks": (
        _INT,
        (
            _HANDLE,
            _HANDLE,
            _HANDLE,
            _INT,
            _INT,
            _INT,
            ctypes.c_bool,
            ctypes.POINTER(_INT),
        ),
    ),
}


def functions(library: Library) -> Any:
    """The library with the types of mtmd's functions.

    Raises:
        MissingError: This build does not see, or in another way than kanna knows.
    """
    lib = library.functions
    build = library.build
    try:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise MissingError(
            f"{build.distribution} {build.version} has no mtmd, llama.cpp's part that sees: "
            f"{error}",
            expected="the prebuilt build",
            todo="KANNA_LLAMACPP=prebuilt, which on Linux and macOS has it",
        ) from error
    given = lib.mtmd_context_params_default()
    differing = [name for name, value in _DEFAULTS.items() if getattr(given, name) != value]
    if differing:
        raise MissingError(
            f"{build.distribution} {build.version} has another mtmd than kanna knows: "
            f"{differing[0]} is {getattr(given, differing[0])!r}",
            todo=f"{build.install} --force-reinstall",
        )
    return lib
