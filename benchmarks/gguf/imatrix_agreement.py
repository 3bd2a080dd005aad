"""Diagonals of kanna's statistics beside llama-imatrix's matrix, of the same tokens.

python -m benchmarks.gguf.imatrix_agreement --model stories          # or dithered, widened
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tokenizers
from benchmarks.common import arguments, llamacpp, models, tables

from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import imatrix, statistics
from kanna.calibration.run import run
from kanna.calibration.windows import CalibrationWindows
from kanna.model import Model
from kanna.sources import open_source, packages


def chunks_of(model: Model, text: str, size: int, count: int) -> np.ndarray:
    """Token ids [count, size] as llama-imatrix cuts a text, each chunk with its BOS token."""
    tokenizer = tokenizers.Tokenizer.from_str(families.to_hf(model)[2]["tokenizer.json"].decode())
    begin = model.meta("tokenizer.ggml.bos_token_id")
    adds = bool(
        model.meta("tokenizer.ggml.add_bos_token", model.meta("tokenizer.ggml.model") == "llama")
    )
    ids = [begin] * adds + tokenizer.encode(text, add_special_tokens=False).ids
    chunks = np.array(ids[: size * count], np.int32).reshape(count, size)
    if adds:
        chunks[:, 0] = begin
    return chunks


def second_moments(model: Model, chunks: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Diagonals of the second moment of every matrix's inputs, by kanna's calibration."""
    count = len(chunks)
    windows = CalibrationWindows(
        ids=chunks, domains=[""] * count, held=np.zeros(count, np.bool_), held_texts=[]
    )
    sites = run(model, windows, folder, {}, widest=4096, device="cpu", progress=Silent())
    return statistics.Statistics(folder, {"sites": sites}).weights


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", choices=["stories", "dithered", "widened"], default="stories")
    parser.add_argument(
        "--chunks", type=int, default=8, help="of 512 tokens of the validation set of WikiText-2"
    )
    options = parser.parse_args()
    path = getattr(models, options.model)()
    model = families.load_model(open_source(path))
    size = min(512, int(model.meta("{arch}.context_length")))
    # llama.cpp reads the whole text; a part of it is enough for these chunks.
    text = packages.wikitext("valid").read_text(encoding="utf-8")[: options.chunks * size * 8]
    with tempfile.TemporaryDirectory() as folder:
        part, out = Path(folder, "text.txt"), Path(folder, "peer.gguf")
        part.write_text(text, encoding="utf-8")
        how = ["-c", size, "-b", size, "--chunks", options.chunks, "--process-output", "-t", 2]
        llamacpp.make_imatrix(path, part, out, how)
        chunks = chunks_of(model, text, size, options.chunks)
        ours = second_moments(model, chunks, Path(folder))
        theirs = imatrix.read(out).weights
    whole = [float(np.linalg.norm(ours[n] - b) / np.linalg.norm(b)) for n, b in theirs.items()]
    column = [
        float((np.abs(ours[n] - b) / np.maximum(b, 1e-3 * b.mean())).max())
        for n, b in theirs.items()
    ]
    row = {
        "model": options.model,
        "tokens": chunks.size,
        "matrices": len(theirs),
        "median": float(np.median(whole)),
        "worst matrix": max(whole),
        "worst column": max(column),
    }
    tables.print_rows([row], options.json)


if __name__ == "__main__":
    main()
