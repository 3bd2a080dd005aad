"""One conversion of a tokenizer to OpenVINO's graphs, in a process of its own.

`python -m kanna.formats.openvino.tokenizer_worker JSON`: reads the folder `source`, writes
openvino_tokenizer.xml and openvino_detokenizer.xml with their .bin to `out`, and prints as JSON
which of `texts` the graph splits otherwise than tokenizer.json does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from kanna._util.hidden_packages import BESIDE_TRANSFORMERS, hide
from kanna._util.processes import end_with_parent

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def make(source: str, out: str, texts: list[str]) -> list[str]:
    """Write the graphs; the texts that are split otherwise."""
    import openvino
    import openvino_tokenizers
    from transformers import PreTrainedTokenizerFast

    own: Any = PreTrainedTokenizerFast.from_pretrained(source)
    converted: Any = openvino_tokenizers.convert_tokenizer(own, with_detokenizer=True)
    for name, graph in zip(("tokenizer", "detokenizer"), converted, strict=True):
        openvino.save_model(graph, Path(out, f"openvino_{name}.xml"))
    split: Any = openvino.compile_model(converted[0], "CPU")
    return [
        text for text in texts if split([text])["input_ids"][0].tolist() != own(text)["input_ids"]
    ]


if __name__ == "__main__":
    end_with_parent()
    os.environ.update(OFFLINE)
    hide(*BESIDE_TRANSFORMERS, "torch")
    print(json.dumps(make(**json.loads(sys.argv[1]))))
