"""One run of onnxruntime-genai's model builder, in a process of its own: `python -m kanna.formats.onnx._child JSON`.

The builder prints, changes `sys.path`, loads torch and holds a whole model: none of that reaches the caller, and all of
its memory is free again when the process ends.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# The builder reads these when it is imported. Nothing is fetched and nothing is reported.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "ORTGENAI_DISABLE_TELEMETRY": "1",
}
# What transformers takes when a yarn scaling leaves it out.
_YARN = {"beta_fast": 32.0, "beta_slow": 1.0}


def flatten_rope(config: Any) -> None:
    """Put the rope of a transformers 5 config where the builder looks for it.

    Gemma 3 has one set of parameters per kind of layer, which the builder indexes as if there were one; Phi 3's
    original context is a default that says nothing unless the model has long and short factors.
    """
    rope = config.rope_parameters
    if not isinstance(rope, dict):
        return
    if "full_attention" in rope:
        full, sliding = dict(rope["full_attention"]), rope["sliding_attention"]
        config.rope_theta, config.rope_local_base_freq = full["rope_theta"], sliding["rope_theta"]
        rope = config.rope_parameters = {"rope_type": "default"} | full
    if rope.get("rope_type") == "yarn":
        rope = config.rope_parameters = _YARN | rope
    if rope.get("rope_type") == "longrope":
        rope["type"] = "longrope"
    elif config.model_type == "phi3":
        config.original_max_position_embeddings = config.max_position_embeddings


def build(source: str, out: str, scratch: str) -> None:
    """Make the float32 graph of the Hugging Face folder `source` in `out`."""
    from onnxruntime_genai.models import builder

    options = builder.parse_extra_options("", source, out, "fp32", "cpu", scratch, [])
    flatten_rope(options["hf_details"]["hf_config"])
    builder.create_model("", source, out, "fp32", "cpu", scratch, **options)


if __name__ == "__main__":
    os.environ.update(OFFLINE)
    build(**json.loads(sys.argv[1]))
