"""A page that runs the model in a browser: llama.cpp or onnxruntime as WebAssembly."""

from __future__ import annotations

from collections.abc import Sequence

from kanna._util.units import format_size
from kanna.errors import UnsupportedError
from kanna.escaping import json_text
from kanna.packaging import model_facts, web
from kanna.packaging.libraries import NpmLibrary
from kanna.packaging.service import PORT, Service
from kanna.packaging.targets.base import Target

MOST_BYTES = (1 << 31) - 1
"""Of one file: what a browser takes into one buffer, and what WebAssembly's files can be long."""


def files(service: Service) -> dict[str, str]:
    """Returns the page, and what it needs to know of the model.

    Raises:
        UnsupportedError: A file is too large for a browser, or the folder predicts no tokens.
    """
    artefact = service.artefact
    for place, path in artefact.files.items():
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UnsupportedError(
                f"{place} has {format_size(size)}: no browser takes so much in one file",
                expected=f"at most {format_size(MOST_BYTES)}",
                todo="choose a smaller preset, or split a GGUF with llama-gguf-split",
            )
    engine = web.get(artefact.kind)
    facts, missing = engine.described(artefact)
    page = web.texts(engine) | model_facts.file(service)
    return page | missing | {"engine.json": json_text(facts) + "\n"}


def libraries(service: Service) -> Sequence[NpmLibrary]:
    """Returns what runs the model in the browser."""
    return web.get(service.artefact.kind).libraries


def usage(_: Service) -> list[str]:
    """Returns the shell lines that serve the page."""
    return [f"python3 serve.py {PORT}", f"# then open http://127.0.0.1:{PORT}/"]


TARGET = Target(
    title="a page for a browser",
    summary="a page that runs the model in the browser: a GGUF by wllama, an ONNX folder by "
    "transformers.js over onnxruntime-web",
    files=files,
    usage=usage,
    only=web.names(),
    installs=False,
    serves=False,
    libraries=libraries,
)
