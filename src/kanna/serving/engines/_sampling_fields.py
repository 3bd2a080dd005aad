"""How tokens are chosen, from the fields of a request."""

from __future__ import annotations

from typing import Any

from kanna.serving.engines._http_server import BadRequestError
from kanna.serving.engines._jobs import SamplingParameters

_SAMPLING_FIELDS: dict[str, tuple[str, type[float] | type[int]]] = {
    "frequency": ("frequency_penalty", float),
    "presence": ("presence_penalty", float),
    "repetition": ("repeat_penalty", float),
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "min_p": ("min_p", float),
    "seed": ("seed", int),
}
"""The field of a request for each of SamplingParameters, and its type."""
_LLAMA_ALONE = {
    "grammar": (),
    "typical_p": (1,),
    "top_n_sigma": (-1, 0),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "mirostat": (0,),
    "adaptive_target": (-1,),
}
"""Options of llama.cpp's alone, with the values that change nothing."""


def sampling_of(body: dict[str, Any], program: str) -> SamplingParameters:
    """The sampling of a request.

    Args:
        body: Of the request.
        program: What runs the model, for messages.

    Raises:
        BadRequestError: It asks for what llama.cpp alone can do.
        ValueError: A field is no number; the gateway lets none of those through.
    """
    for name, neutral in _LLAMA_ALONE.items():
        if body.get(name) and body[name] not in neutral:
            raise BadRequestError(f"this model runs in {program}, which does not support {name!r}")
    values: dict[str, Any] = {
        name: kind(body[field])
        for name, (field, kind) in _SAMPLING_FIELDS.items()
        if body.get(field) is not None
    }
    bias = {int(k): float(v) for k, v in (body.get("logit_bias") or {}).items()}
    return SamplingParameters(**values, bias=bias)
