"""A tokenizer as OpenVINO's graphs, in a process of its own.

`python -m kanna.formats.openvino.tokenizer_worker JSON`: reads the folder `source`, writes
openvino_tokenizer.xml and openvino_detokenizer.xml with their .bin to `out`, and prints as JSON
which of `texts` the graph splits otherwise than tokenizer.json does. With `folder` in place of
both, those of a folder that is there, and which of `texts` its graphs do not give back.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from kanna._util.hidden_packages import BESIDE_TRANSFORMERS, hide
from kanna._util.processes import end_with_parent
from kanna.formats.openvino import graphs

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


def compare(folder: str, texts: list[str]) -> list[list[str]]:
    """Texts that the graphs of a folder split otherwise than its tokenizer.json.

    Returns those, and the ones that its inverse makes something else of, spaces aside.
    """
    import openvino
    from tokenizers import Tokenizer

    importlib.import_module("openvino_tokenizers")  # adds its operations to every `Core`
    core: Any = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": 1}
    split, join = (
        core.compile_model(graphs.load(core, Path(folder), name), "CPU", options)
        for name in graphs.TOKENIZERS
    )
    own: Any = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    own.no_truncation()
    own.no_padding()
    ids = {text: split([text])["input_ids"].reshape(-1).tolist() for text in texts}
    joined = {text: "".join(join([ids[text] or [0]])[0]) for text in texts}
    return [
        [text for text in texts if ids[text] != own.encode(text).ids],
        [text for text in texts if _solid(joined[text]) != _solid(text)],
    ]


def _solid(text: str) -> str:
    return "".join(text.split())


if __name__ == "__main__":
    end_with_parent()
    os.environ.update(OFFLINE)
    hide(*BESIDE_TRANSFORMERS, "torch")
    task = json.loads(sys.argv[1])
    print(json.dumps((compare if "folder" in task else make)(**task)))
