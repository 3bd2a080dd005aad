"""One run of onnxruntime-genai's model builder, in a process of its own.

`python -m kanna.formats.onnx.build_worker JSON`.

The builder prints, changes `sys.path`, loads torch and holds a whole model: none of that reaches
the caller, and all of its memory is free again when the process ends.
"""

from __future__ import annotations

import json
import os
import sys

from kanna._util.hidden_packages import BESIDE_TRANSFORMERS, QUANTIZERS, hide
from kanna._util.processes import end_with_parent
from kanna.formats.onnx import graph_fixes

# The builder reads these when it is imported. Nothing is fetched.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def build(source: str, out: str, scratch: str) -> None:
    """Make the float32 graph of the Hugging Face folder `source` in `out`."""
    from onnxruntime_genai.models import builder

    # A cache as long as the text in every layer: one that holds a window alone cannot go back to an
    # earlier token.
    options = builder.parse_extra_options(
        "", source, out, "fp32", "cpu", scratch, extra_options=["windowed_kv_cache=false"]
    )
    config = options["hf_details"]["hf_config"]
    # What is one matrix in the model is one in the graph.
    options["fuse_mlp_gate_up"] = config.model_type == "phi3"
    graph_fixes.mend(builder, config)
    builder.create_model("", source, out, "fp32", "cpu", scratch, **options)


if __name__ == "__main__":
    end_with_parent()
    os.environ.update(OFFLINE)
    hide(*BESIDE_TRANSFORMERS, *QUANTIZERS)
    build(**json.loads(sys.argv[1]))
