"""The gate of a model that ranks: its scores of questions with texts against the source's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from kanna.checks import Check
from kanna.evaluation.reference import reference_folder
from kanna.model import F32, Model
from kanna.runtimes.isolation import IsolatedLlamaEngine
from kanna.runtimes.llama_engine import LlamaEngine
from kanna.runtimes.torch import RUNTIME as TORCH
from kanna.runtimes.torch_engine import quiet
from kanna.sources import Source
from kanna.tokenizer.reference import own_tokenizer
from kanna.verification import parity
from kanna.verification.embeddings import SENTENCES

_TEMPLATE = "tokenizer.chat_template.rerank"
_QUESTIONS = ("Who listens to the iron?", "Where does water boil?", "What is a plane?")
# Least correlation of the scores with the source's, by bits per weight.
_CORRELATION = ((15.0, 0.9999), (7.5, 0.99), (4.0, 0.9), (0.0, 0.5))


def check(source: Source, model: Model, engine: LlamaEngine | IsolatedLlamaEngine) -> Check:
    """Scores of some questions with some texts.

    Args:
        source: What the artefact was made from.
        model: The same as a model.
        engine: The artefact, open.
    """
    here = all(importlib.util.find_spec(n) for n in ("torch", "transformers"))
    if source.kind != "hf" or not here:
        return Check(
            name="scores", ok=None, detail="no reference: transformers and a folder make it"
        )
    pairs = list(product(_QUESTIONS, SENTENCES[:6]))
    ids = [pair_ids(source, model, *pair) for pair in pairs]
    if (differing := _differing(model, engine, pairs, ids)) is not None:
        return Check(name="scores", ok=False, detail=differing)
    actual, expected = engine.rank(ids), in_transformers(source, model, ids)
    if not np.isfinite(actual).all():
        return Check(name="scores", ok=False, detail="not finite")
    bits = parity.decisive_bits(Path(engine.path), model)
    least = next(low for most, low in _CORRELATION if bits >= most)
    correlation = float(np.corrcoef(actual, expected)[0, 1])
    return Check(
        name="scores",
        ok=correlation >= least,
        detail=f"correlation of {len(pairs)} scores with transformers in float32: "
        f"{correlation:.6f} (at least {least}), at "
        f"{parity.in_words(bits, parity.whole_bits(Path(engine.path), model))}",
    )


def _differing(
    model: Model,
    engine: LlamaEngine | IsolatedLlamaEngine,
    pairs: Sequence[tuple[str, str]],
    ids: Sequence[list[int]],
) -> str | None:
    """A prompt that the artefact's tokenizer splits otherwise; None where there is none."""
    if model.meta(_TEMPLATE) is None:
        return None
    for pair, expected in zip(pairs, ids, strict=True):
        if engine.tokenize(_prompt(model, *pair), special=True) != expected:
            return f"the prompt of {pair[0]!r} has other token ids in llama.cpp"
    return None


def _prompt(model: Model, question: str, text: str) -> str:
    template = str(model.meta(_TEMPLATE))
    return template.replace("{query}", question).replace("{document}", text)


def pair_ids(source: Source, model: Model, question: str, text: str) -> list[int]:
    """Ids of a question with a text, as llama.cpp's server puts them together.

    Args:
        source: A Hugging Face folder.
        model: The same as a model.
        question: The question.
        text: What may answer it.
    """
    own = own_tokenizer(source)
    if model.meta(_TEMPLATE) is None:
        return own.encode(question, text).ids
    return own.encode(_prompt(model, question, text), add_special_tokens=False).ids


def in_transformers(source: Source, model: Model, texts: Sequence[Sequence[int]]) -> F32:
    """Scores by transformers in float32: of the head, or the chance of the first of two words.

    Args:
        source: A Hugging Face folder.
        model: The same as a model.
        texts: Ids of each question with its text.
    """
    torch, transformers = TORCH.load()
    labels = model.meta("{arch}.classifier.output_labels")
    kind = "AutoModelForCausalLM" if labels else "AutoModelForSequenceClassification"
    with quiet(transformers), torch.inference_mode():
        loaded: Any = (
            getattr(transformers, kind)
            .from_pretrained(
                str(reference_folder(source)),
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
            )
            .eval()
        )
        if not labels:
            scores = [loaded(torch.tensor([list(ids)])).logits[0, 0].item() for ids in texts]
            return np.array(scores, np.float32)
        own = own_tokenizer(source)
        words = [own.token_to_id(str(word)) for word in labels]
        rows = [loaded(torch.tensor([list(ids)])).logits[0, -1, words] for ids in texts]
        return np.array([row.softmax(-1)[0].item() for row in rows], np.float32)
