"""nncf's weights in the graph of a folder: `python -m benchmarks.openvino.peer FROM TO JSON`.

The graph is kanna's in float32, so that both sides differ in their weights alone.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

import kanna  # noqa: F401  before OpenVINO: its telemetry stays off

SAMPLES, TOKENS = 64, 128


def samples(folder: Path, text: str) -> list[dict[str, np.ndarray]]:
    """Inputs of the graph for windows of a text."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    windows = [ids[at : at + TOKENS] for at in range(0, len(ids) - TOKENS, TOKENS)]
    step = max(1, len(windows) // SAMPLES)
    return [
        {
            "input_ids": np.array([window], np.int64),
            "attention_mask": np.ones((1, TOKENS), np.int64),
            "position_ids": np.arange(TOKENS, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        for window in windows[::step][:SAMPLES]
    ]


def main(source: Path, out: Path, options: dict[str, object]) -> None:
    """Write `out` with weights by nncf's compress_weights."""
    import nncf
    import openvino

    graph = openvino.Core().read_model(source / "openvino_model.xml")
    text = options.pop("text", None)
    mode = getattr(nncf.CompressWeightsMode, str(options.pop("mode")))
    if text is not None:
        given = samples(source, Path(str(text)).read_text(encoding="utf-8"))
        options["dataset"] = nncf.Dataset(given)
    compressed = nncf.compress_weights(graph, mode=mode, **options)
    out.mkdir(parents=True)
    for path in source.iterdir():
        if not path.name.startswith("openvino_model"):
            shutil.copy(path, out)
    openvino.save_model(compressed, out / "openvino_model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
