"""Components of the kind `encodings`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from kanna import encodings
from kanna._util import plugins
from kanna.catalog.base import Component, ComponentOption, Kind, of_module, options
from kanna.encodings import Encoding, grouped
from kanna.errors import UnsupportedError

_KIND = "encodings"


def _find() -> Iterator[Component]:
    for name in encodings.names():
        module = plugins.module(encodings.__name__, name)
        yield of_module(
            _KIND,
            name,
            module,
            "ENCODING",
            summary=encodings.get(name).summary,
            facts=_facts(encodings.get(name)),
            **_extra(module),
        )
    for kind in plugins.names(grouped.__name__, "ENCODINGS"):
        module = importlib.import_module(f"{grouped.__name__}.{kind}")
        yield of_module(
            _KIND,
            kind,
            module,
            "ENCODINGS",
            summary=module.ENCODINGS[0].summary,
            options=_parts(module),
            facts=_widths(module.ENCODINGS),
        )


def _facts(encoding: Encoding) -> dict[str, Any]:
    return {
        "bits per weight": round(encoding.bits, 4),
        "values per block": encoding.block,
        "bytes per block": encoding.block_bytes,
        "computed": encoding.encoder is not None,
        "wants statistics": encoding.needs_weights,
        **({"type of ggml": encoding.ggml_type} if encoding.ggml_type is not None else {}),
        **{f"{key} of MLX": value for key, value in encoding.settings.items()},
    }


def _extra(module: Any) -> dict[str, str]:
    """Ggml's own encoder comes with llama.cpp.

    Where it stands beside ours, it is the one for `nearest`.
    """
    ggml = getattr(module, "_ggml", None)
    encoder = module.ENCODING.encoder
    if ggml is None or encoder not in (ggml.encode, ggml.encode_searched):
        return {}
    return {
        "extra": "llamacpp",
        "extra_for": "" if encoder is ggml.encode else "the method nearest",
    }


def _parts(module: Any) -> tuple[ComponentOption, ...]:
    """What a name is made of."""
    return options(getattr(module, "name_of", None) or module.NBits)


def _widths(group: tuple[Encoding, ...]) -> dict[str, Any]:
    return {
        "encodings": len(group),
        **(
            {"scale": "one per row"}
            if group[0].row_scale
            else {"values per group": sorted({e.block for e in group})}
        ),
        "bits per weight": [
            round(min(e.bits for e in group), 3),
            round(max(e.bits for e in group), 3),
        ],
        "names": [e.name for e in group],
    }


def _more(name: str) -> Component | None:
    try:
        encoding = encodings.get(name)
    except UnsupportedError:
        return None
    for kind in plugins.names(grouped.__name__, "ENCODINGS"):
        module = importlib.import_module(f"{grouped.__name__}.{kind}")
        if encoding in module.ENCODINGS:
            return of_module(
                _KIND,
                encoding.name,
                module,
                "ENCODINGS",
                summary=encoding.summary,
                facts=_facts(encoding),
            )
    return None


KIND = Kind(
    summary="Encodings: how values are stored",
    about=(
        "Named by `--encoding`, `--rule PATTERN=ENCODING` and in plan files. Those of GGUF are "
        "listed one by one. MLX, ONNX and OpenVINO have kinds of them, in widths, group sizes and "
        "types of scales: a name of one, such as `affine4g64` or `nbits4g32`, is shown too."
    ),
    find=_find,
    more=_more,
)
