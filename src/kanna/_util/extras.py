"""Extras: what `pip install "kanna[NAME]"` adds, and whether it is here.

Nothing is imported to find out.
"""

from __future__ import annotations

import importlib.util
import sys

_PREBUILT_LLAMA = "llama_cpp_py_sync" if sys.platform == "win32" else "xllamacpp"

EXTRAS: dict[str, tuple[str, ...]] = {
    "llamacpp": (_PREBUILT_LLAMA,),
    "torch": ("torch", "transformers", "sentencepiece"),
    "onnx": (
        "onnxruntime",
        "onnxruntime_genai",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "torch",
        "transformers",
    ),
    "mlx": ("mlx", "mlx_lm"),
    "package": ("cyclonedx", "model_signing", "OpenSSL"),
    "serve": ("aiohttp", "fastapi", "llguidance", "prometheus_client", "uvicorn", "xllamacpp"),
}
"""Import names that each extra brings, as far as kanna imports them by name."""


def missing(extra: str) -> list[str]:
    """Import names that are not installed, of `extra` or of several by comma.

    None of "", which is the base install.
    """
    wanted = [name for one in extra.split(",") if one for name in EXTRAS[one]]
    return [name for name in dict.fromkeys(wanted) if not _found(name)]


def command(extra: str) -> str:
    """What installs it."""
    return f'pip install "kanna[{extra}]"'


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a module that is set to None, or has no spec
        return False
