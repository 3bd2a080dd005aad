"""The gate of a model that makes vectors, in the runtime of its artefact: ids and cosines.

Logits prove nothing of an encoder, which has none. What it is for are the angles between vectors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from kanna.checks import Check
from kanna.errors import KannaError
from kanna.evaluation.reference import reference_folder, reference_gguf
from kanna.formats import vectors
from kanna.model import F32, Model, num_rows
from kanna.runtimes.isolation import IsolatedLlamaEngine
from kanna.runtimes.llama_engine import LlamaEngine
from kanna.runtimes.llamacpp import RUNTIME as LLAMA
from kanna.runtimes.torch import RUNTIME as TORCH
from kanna.runtimes.torch_engine import quiet
from kanna.sources import Source
from kanna.tokenizer.corpus import PLAIN
from kanna.tokenizer.reference import own_tokenizer
from kanna.verification import parity, ranks
from kanna.verification.embeddings import SENTENCES
from kanna.verification.tokens import check_words

# Least cosine of any text, and on average, by bits per weight. Right files of all-MiniLM-L6-v2 come
# to 0.99999 (float), 0.9997 (8 bits) and 0.98 (4 bits); a wrong pooling or mask to 0.3 to 0.9.
_COSINE = ((15.0, 0.999, 0.9999), (7.5, 0.99, 0.998), (4.0, 0.85, 0.95), (0.0, 0.5, 0.7))
_TEXTS = (*PLAIN, *SENTENCES)


def check(source: Source, model: Model, artefact: Path, threads: int | None) -> list[Check]:
    """Ids of the tokenizer, and vectors against the source's own.

    Args:
        source: What the artefact was made from.
        model: The same as a model.
        artefact: A GGUF.
        threads: Threads to use; None: one per physical core.
    """
    with closing(LLAMA.open_ranker(artefact, threads=threads)) as encoder:
        tokens = check_words(source, model, encoder)
        if tokens.ok is not True:
            return [tokens]
        if vectors.ranks(model):
            return [tokens, ranks.check(source, model, encoder)]
        texts = _comparable(source, model, encoder)
        try:
            expected, by = _reference(source, model, texts, threads)
        except KannaError as error:
            return [
                tokens,
                Check(name="embeddings", ok=None, detail=f"no reference: {error.found}"),
            ]
        return [tokens, _cosine(encoder.embed(texts), expected, by, artefact, model)]


def _cosine(actual: F32, expected: F32, by: str, artefact: Path, model: Model) -> Check:
    if not np.isfinite(actual).all():
        return Check(name="embeddings", ok=False, detail="not finite")
    cosine = (actual * expected).sum(axis=1)
    bits = parity.decisive_bits(artefact, model)
    least, mean = next((low, middle) for most, low, middle in _COSINE if bits >= most)
    return Check(
        name="embeddings",
        ok=bool(cosine.min() >= least and cosine.mean() >= mean),
        detail=f"cosine of {len(cosine)} texts with {by}: {cosine.mean():.6f} on average (at least "
        f"{mean}), {cosine.min():.6f} at worst (at least {least}), at "
        f"{parity.in_words(bits, parity.whole_bits(artefact, model))}",
    )


def _comparable(
    source: Source, model: Model, encoder: LlamaEngine | IsolatedLlamaEngine
) -> list[str]:
    """Texts that fit the model, and have the same ids in the artefact and the source."""
    longest = model.whole("{arch}.context_length", 0) or 1 << 30
    texts: list[str] = []
    for text in _TEXTS:
        ids = encoder.tokenize(text, add_bos=True)
        if len(ids) <= longest and _framed(source, text) in (None, ids):
            texts.append(text)
    return texts


def _framed(source: Source, text: str) -> list[int] | None:
    """Ids of a text as the source's own tokenizer frames it; None where it has none here."""
    own = own_tokenizer(source) if source.kind == "hf" else None
    return None if own is None else own.encode(text).ids


def _reference(
    source: Source, model: Model, texts: Sequence[str], threads: int | None
) -> tuple[F32, str]:
    """Vectors of the source, and what made them.

    Raises:
        KannaError: Nothing here can make them.
    """
    here = all(importlib.util.find_spec(n) for n in ("torch", "transformers"))
    if source.kind == "hf" and here:
        return in_transformers(source, model, texts), "transformers in float32"
    with closing(LLAMA.open_encoder(reference_gguf(source), threads=threads)) as encoder:
        return encoder.embed(texts), "the source in float32 in llama.cpp"


def in_transformers(source: Source, model: Model, texts: Sequence[str]) -> F32:
    """Vectors of length 1 by transformers in float32, pooled as the model says.

    Args:
        source: A Hugging Face folder.
        model: The same as a model.
        texts: What they are of.
    """
    torch, transformers = TORCH.load()
    tokenizer = own_tokenizer(source)
    with quiet(transformers), torch.inference_mode():
        loaded: Any = transformers.AutoModel.from_pretrained(
            str(reference_folder(source)),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        ).eval()
        rows = [
            loaded(input_ids=torch.tensor([tokenizer.encode(t).ids])).last_hidden_state[0].numpy()
            for t in texts
        ]
    pooled = np.stack([_pooled(row, vectors.pooling(model)) for row in rows])
    for name in ("dense_2.weight", "dense_3.weight"):  # of EmbeddingGemma
        if (dense := model.tensors.get(name)) is not None:
            pooled = pooled @ dense.rows(0, num_rows(dense)).T
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def _pooled(hidden: F32, pooling: int) -> F32:
    """The states of all tokens as one."""
    if pooling == vectors.FIRST:
        return hidden[0]
    return hidden[-1] if pooling == vectors.LAST else hidden.mean(axis=0)
