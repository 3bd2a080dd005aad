"""Extras: what kanna can be installed with, and whether it is here.

Nothing is imported to find out.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from kanna._util.distribution import install_command, requirements
from kanna.errors import MissingError

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
    "openvino": ("openvino", "openvino_tokenizers", "openvino_genai", "transformers"),
    "adapt": ("torch", "transformers", "accelerate", "datasets", "peft", "trl"),
    "search": ("optuna",),
    "ray": ("ray",),
    "tasks": ("lm_eval", "torch"),
    "azureml": ("azure.ai.ml", "azure.identity"),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "trackio": ("trackio",),
    "postgres": ("psycopg",),
    "cloud": ("s3fs", "adlfs"),
    "package": ("cyclonedx", "model_signing", "OpenSSL"),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "serve": ("aiohttp", "fastapi", "llguidance", "prometheus_client", "uvicorn", "xllamacpp"),
}
"""Import names that each extra brings, as far as kanna imports them by name."""

LEAST_PYTHON = {"onnx": (3, 11), "mlx": (3, 11)}
"""The oldest Python that packages of an extra have wheels for; the others take what kanna takes."""


def missing(extra: str) -> list[str]:
    """Import names that are not installed, of `extra` or of several by comma.

    None of "", which is the base install.
    """
    wanted = [name for one in extra.split(",") if one for name in EXTRAS[one]]
    return [name for name in dict.fromkeys(wanted) if not _found(name)]


def require(extra: str, what: str, modules: Sequence[str] | None = None) -> None:
    """Raise MissingError with the command that installs an extra, unless it is here.

    A verb asks before its first work: nothing is read for minutes, and no folder made, for what
    cannot be done.

    Args:
        extra: Its name.
        what: What needs it, as the error begins.
        modules: Import names that are looked for; None: all of the extra.
    """
    absent = missing(extra) if modules is None else [name for name in modules if not _found(name)]
    if absent:
        raise MissingError(
            f"{what} needs what is not installed here: {', '.join(absent)}",
            expected=f"the extra {extra}",
            todo=command(extra),
        )


def command(extra: str) -> str:
    """What installs it, or several by comma, on this machine; or the Python that it needs."""
    here = sys.version_info[:2]
    for name in (part.strip() for part in extra.split(",")):
        least = LEAST_PYTHON.get(name, here)
        if here < least:
            needed, present = (".".join(map(str, version)) for version in (least, here))
            return f"install kanna in Python {needed} or newer: {name} needs it, this is {present}"
    return install_command(extra)


def command_for(module: str) -> str:
    """What brings a module that could not be imported: a package that kanna asks for, or kanna.

    A package is not guessed from the module's name: another project may have that name.

    Args:
        module: Its import name.
    """
    wanted = _normal(module.partition(".")[0])
    for line in requirements():
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        if _normal(name) == wanted:
            return f"pip install {name}"
    return command(next((extra for extra, names in EXTRAS.items() if module in names), ""))


def installed(*distributions: str) -> str:
    """`mlx 0.30.1, mlx-lm 0.28.4`: packages with their versions; "" where one is not here.

    Args:
        distributions: Named as on the package index.
    """
    try:
        return ", ".join(f"{name} {version(name)}" for name in distributions)
    except PackageNotFoundError:
        return ""


def _normal(name: str) -> str:
    """A name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a module that is set to None, or has no spec
        return False
