"""GGUF in a browser: wllama, which is llama.cpp as WebAssembly."""

from __future__ import annotations

from kanna.packaging.libraries import NpmLibrary
from kanna.packaging.web.base import BrowserEngine

BROWSER = BrowserEngine(
    summary="wllama",
    script="wllama.js",
    libraries=(
        NpmLibrary(
            package="@wllama/wllama",
            version="3.13.0",
            licence="MIT",
            files={
                "esm/index.js": "lib/wllama/index.js",
                "esm/wasm/wllama.wasm": "lib/wllama/wllama.wasm",
                "LICENCE": "lib/wllama/LICENCE",
            },
        ),
        NpmLibrary(
            package="@wllama/wllama-compat",
            version="3.13.0",
            licence="MIT",
            files={
                "wasm/wllama.js": "lib/wllama/compat/wllama.js",
                "wasm/wllama.wasm": "lib/wllama/compat/wllama.wasm",
            },
        ),
    ),
)
