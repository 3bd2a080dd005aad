"""The gate of an encoder: files, tokenizer, and vectors against transformers in float32."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from kanna.checks import Check, verdict
from kanna.errors import FormatError, KannaError
from kanna.evaluation.text import TEXT
from kanna.formats.onnx import files
from kanna.model import F32, num_weights
from kanna.runtimes.folder_text import FolderText
from kanna.runtimes.isolation import IsolatedEncoder
from kanna.runtimes.onnx import RUNTIME
from kanna.runtimes.onnx_encoder import OnnxEncoder, pool
from kanna.runtimes.torch import RUNTIME as TORCH
from kanna.runtimes.torch_engine import quiet
from kanna.sources import Source
from kanna.tokenizer.corpus import CORPUS

EXTRA = "onnx"

# Least cosine of any text, and on average, by bits per weight. Right files of all-MiniLM-L6-v2 come
# to 1 − 1e-7 (float and 16 bits) and about .98 (int8); unrelated texts to about 0, and a wrong
# pooling or mask to .3 to .9.
_COSINE = ((12.0, 0.999, 0.9999), (0.0, 0.85, 0.95))
SENTENCES = (
    *[s.strip() + "." for s in TEXT.split(". ") if s.strip()],
    *[t for t in CORPUS if t.strip()],
)


def verify(source: Source, artefact: Path, threads: int | None) -> list[Check]:
    """Checks: files, tokenizer, embeddings. One that cannot be made here has ok=None."""
    if not RUNTIME.available().ok:
        return [
            Check(
                name="files",
                ok=None,
                detail=f"onnxruntime is not here: {RUNTIME.available().how_to_install}",
            )
        ]
    try:
        folder = files.read_folder(artefact)
        text = FolderText(artefact, [])
        original = FolderText(source.path, [])
    except KannaError as error:
        return [Check(name="files", ok=False, detail="; ".join(str(error).splitlines()))]
    detail = (
        f"{folder.graph.name} and {len(folder.data)} with its weights, "
        "all of them inside the folder"
    )
    checks = [Check(name="files", ok=True, detail=detail)]
    differing = [
        t for t in CORPUS if text.tokenize(t, add_bos=True) != original.tokenize(t, add_bos=True)
    ]
    detail = f"differs on {differing[0]!r}" if differing else f"the same ids on {len(CORPUS)} texts"
    checks.append(Check(name="tokenizer", ok=not differing, detail=detail))
    if any(importlib.util.find_spec(n) is None for n in ("torch", "transformers")):
        return [
            *checks,
            Check(
                name="embeddings",
                ok=None,
                detail=f"no reference: {TORCH.available().how_to_install}",
            ),
        ]
    try:
        with RUNTIME.open_encoder(artefact, threads=threads) as encoder:
            return [*checks, _cosine(source, folder, encoder)]
    except FormatError as error:
        return [*checks, Check(name="loads in onnxruntime", ok=verdict(error), detail=error.found)]


def _cosine(source: Source, folder: files.Folder, encoder: OnnxEncoder | IsolatedEncoder) -> Check:
    vectors = encoder.embed(SENTENCES)
    if not np.isfinite(vectors).all():
        return Check(name="embeddings", ok=False, detail="not finite")
    cosine = (vectors * reference(source, encoder)).sum(axis=1)
    # Of a small model the graph itself is the larger part: what counts is how wide its weights are.
    stored = sum(p.stat().st_size for p in folder.data) or folder.nbytes
    bits = 8 * stored / max(1, sum(num_weights(t) for t in source.tensors.values()))
    least, mean = next((low, middle) for most, low, middle in _COSINE if bits >= most)
    ok = bool(cosine.min() >= least and cosine.mean() >= mean)
    detail = f"cosine of {len(cosine)} texts: {cosine.mean():.6f} on average (at least {mean}), "
    detail += f"{cosine.min():.6f} at worst (at least {least}), at {bits:.1f} bits"
    return Check(name="embeddings", ok=ok, detail=detail)


def reference(source: Source, encoder: OnnxEncoder | IsolatedEncoder) -> F32:
    """Vectors of the source in transformers, float32, pooled as the artefact's."""
    torch, transformers = TORCH.load()
    with quiet(transformers), torch.inference_mode():
        model: Any = transformers.AutoModel.from_pretrained(
            str(source.path), dtype=torch.float32, local_files_only=True, trust_remote_code=False
        ).eval()
        rows = [
            model(input_ids=torch.tensor([encoder.ids(t)])).last_hidden_state[0].numpy()
            for t in SENTENCES
        ]
    return np.stack([pool(r) for r in rows])
