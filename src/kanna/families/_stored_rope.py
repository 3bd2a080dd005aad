"""The rotary embedding of a GGUF, back in the keys of config.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.errors import UnsupportedError
from kanna.families._rope import Rope, given_parameters, llama3_factors, yarn_scale
from kanna.model import F32, Model


def short(value: float) -> float:
    """A float32 as the shortest decimal that is the same float32."""
    return float(str(np.float32(value)))


def scaling(model: Model) -> dict[str, Any] | None:
    """`rope_scaling` from metadata (linear, yarn) or from the factors of Llama 3.1's scaling."""
    kind = model.meta("{arch}.rope.scaling.type")
    if kind in ("linear", "yarn"):
        params: dict[str, Any] = {
            "rope_type": kind,
            "factor": short(model.meta("{arch}.rope.scaling.factor", 1.0)),
        }
        if (original := model.meta("{arch}.rope.scaling.original_context_length")) is not None:
            params["original_max_position_embeddings"] = int(original)
        for gguf_name, hf_name in (
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ):
            if (value := model.meta(f"{{arch}}.rope.scaling.{gguf_name}")) is not None:
                params[hf_name] = short(value)
        if kind == "yarn" and (ratio := model.meta("{arch}.rope.scaling.attn_factor")) is not None:
            params["attention_factor"] = short(ratio * yarn_scale(params["factor"]))
        return params
    factors = model.tensors.get("rope_freqs.weight")
    if factors is None:
        return None
    own = {k: v for k, v in given_parameters(model.config).items() if k != "rope_theta"}
    if (own.get("rope_type") or own.get("type")) == "llama3":
        return own
    values = factors.rows(0, 1).reshape(-1)
    theta = float(model.meta("{arch}.rope.freq_base") or 10000.0)
    return _llama3(values, theta)


def _llama3(values: F32, theta: float) -> dict[str, Any]:
    """The parameters that give these factors, among the ones models are published with."""
    for original in (8192, 4096, 2048, 16384, 32768, 1024, 512, 256, 128, 64):
        for low, high in ((1.0, 4.0), (1.0, 2.0), (1.0, 8.0)):
            params = {
                "rope_type": "llama3",
                "factor": short(float(values.max())),
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
            made = llama3_factors(Rope(theta, "llama3", params), 2 * len(values))
            if np.allclose(made, values, rtol=1e-4):
                return params
    raise UnsupportedError(
        "the factors in rope_freqs.weight are not those of a published Llama 3 scaling",
        todo="write a GGUF instead: there the factors stay as they are",
    )
