"""Export an encoder in a process of its own: `python -m kanna.formats.onnx.encoder_worker JSON`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from kanna._util.hidden_packages import BESIDE_TRANSFORMERS, QUANTIZERS, hide
from kanna._util.processes import end_with_parent
from kanna.formats.onnx import external_data
from kanna.formats.onnx.build_worker import OFFLINE

OPSET = 18
"""Of the exported graph.

The newest that stock onnxruntime's int8 quantizer and its fusions all know.
"""


def export(*, source: str, out: str) -> None:
    """Write the encoder in the Hugging Face folder `source` as `out`/model.onnx.

    Ids and mask to hidden states.

    torch exports, and onnxscript's optimizer folds and cleans what it exported; onnxruntime's own
    fusions of a BERT happen when a session loads it.
    """
    import torch
    import transformers

    model: Any = transformers.AutoModel.from_pretrained(
        source,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation="eager",
    ).eval()
    names = ["input_ids", "attention_mask"]
    if "type_vocab_size" in model.config.to_dict():
        names.append("token_type_ids")

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, *given: Any) -> Any:
            return self.body(**dict(zip(names, given, strict=True))).last_hidden_state

    # Each a tensor of its own: the exporter takes the same one given twice for one input.
    example = tuple(
        torch.full((2, 16), int(n != "token_type_ids"), dtype=torch.int64) for n in names
    )
    batch = torch.export.Dim("batch")
    tokens = torch.export.Dim("tokens", min=2, max=model.config.max_position_embeddings)
    with torch.no_grad():
        made: Any = torch.onnx.export(
            Hidden().eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_shapes=(tuple({0: batch, 1: tokens} for _ in names),),
            optimize=True,
            verbose=False,
        )
    external_data.save(made.model_proto, Path(out) / "model.onnx")


if __name__ == "__main__":
    end_with_parent()
    os.environ.update(OFFLINE)
    hide(*BESIDE_TRANSFORMERS, *QUANTIZERS)
    export(**json.loads(sys.argv[1]))
