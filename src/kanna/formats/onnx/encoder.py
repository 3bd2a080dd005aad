"""Encoders: models that turn text into one vector.

Which sources are one, and their graph as torch exports it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna._util.interpreter import module_command
from kanna._util.processes import run
from kanna._util.progress import Progress
from kanna.errors import KannaError

ARCHITECTURES = ("BertModel", "DistilBertModel", "RobertaModel", "XLMRobertaModel", "MPNetModel")
NEEDED = ("onnxruntime", "onnx", "onnxscript", "torch", "transformers")
SIDE_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "README.md",
)
"""What stock sentence-transformers reads beside the graph."""


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an encoder; tried are those of the BERT kind."""
    named = config.get("architectures") or ()
    classes = [named] if isinstance(named, str) else named if isinstance(named, list) else ()
    return any(a in ARCHITECTURES for a in classes)


def export(source: Path, out: Path, progress: Progress) -> None:
    """Write the float32 graph of the encoder in the folder `source` as `out`/model.onnx.

    Raises KannaError with torch's last words when it fails.
    """
    task = json.dumps({"source": str(source), "out": str(out)})
    command = module_command("kanna.formats.onnx.encoder_worker", task)
    progress.start("export the graph", None, "graphs")
    try:
        done = run(command)
    finally:
        progress.finish()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise KannaError(f"torch's exporter ended with code {done.returncode}: {last}")
