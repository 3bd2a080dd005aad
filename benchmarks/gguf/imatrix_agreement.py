"""Diagonals of kanna's statistics beside llama-imatrix's matrix, of the same tokens.

python -m benchmarks.gguf.imatrix_agreement --model stories          # or dithered, widened
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tokenizers
from benchmarks.common import models, peers

from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import imatrix, statistics
from kanna.calibration.run import run
from kanna.calibration.windows import Windows
from kanna.sources import open_source, packages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["stories", "dithered", "widened"], default="stories")
    parser.add_argument(
        "--chunks", type=int, default=8, help="of 512 tokens of the validation set of WikiText-2"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    path = getattr(models, options.model)()
    model = families.load_model(open_source(path))
    size = min(512, int(model.meta("{arch}.context_length")))
    text = packages.wikitext("valid")
    tokenizer = tokenizers.Tokenizer.from_str(families.to_hf(model)[2]["tokenizer.json"].decode())
    begin = model.meta("tokenizer.ggml.bos_token_id")
    adds = bool(
        model.meta("tokenizer.ggml.add_bos_token", model.meta("tokenizer.ggml.model") == "llama")
    )
    with tempfile.TemporaryDirectory() as folder:
        # llama.cpp reads the whole text; a part of it is enough for these chunks.
        part, out = Path(folder, "text.txt"), Path(folder, "peer.gguf")
        part.write_text(
            text.read_text(encoding="utf-8")[: options.chunks * size * 8], encoding="utf-8"
        )
        peers.run(
            [
                peers.tool("llama-imatrix"),
                "-m",
                path,
                "-f",
                part,
                "-o",
                out,
                "-c",
                str(size),
                "-b",
                str(size),
            ]
            + ["--chunks", str(options.chunks), "--process-output", "-t", "2"]
        )
        ids = tokenizer.encode(part.read_text(encoding="utf-8"), add_special_tokens=False).ids
        stream = [begin] * adds + ids
        chunks = np.array(stream[: size * options.chunks], np.int32).reshape(options.chunks, size)
        if adds:
            chunks[:, 0] = begin
        count = len(chunks)
        windows = Windows(
            ids=chunks, domains=[""] * count, held=np.zeros(count, np.bool_), held_text=""
        )
        sites = run(model, windows, Path(folder), {}, widest=4096, device="cpu", progress=Silent())
        ours = statistics.Statistics(Path(folder), {"sites": sites}).weights
        theirs = imatrix.read(out).weights
    whole = [float(np.linalg.norm(ours[n] - b) / np.linalg.norm(b)) for n, b in theirs.items()]
    column = [
        float((np.abs(ours[n] - b) / np.maximum(b, 1e-3 * b.mean())).max())
        for n, b in theirs.items()
    ]
    peers.report(
        [
            {
                "model": options.model,
                "tokens": chunks.size,
                "matrices": len(theirs),
                "median": float(np.median(whole)),
                "worst matrix": max(whole),
                "worst column": max(column),
            }
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
