"""Which of four sentences comes next: multiple choice, scored as lm-evaluation-harness does.

A question is two sentences of a text; the choices are the first words of the sentence that follows
and of three others from nearby. A choice's score is its log-likelihood in llama.cpp over its length
in bytes (`acc_norm` there), and chance is one in four. Everything is drawn from a fixed seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util import processes
from kanna.hardware.cpu import default_threads
from kanna.runtimes.llamacpp import RUNTIME, library

SEED = 20260102
CHOICES = 4
CHOICE_WORDS = 10
"""Words of each choice: a whole sentence makes it too easy."""
SHORTEST = 6
"""Words of the shortest sentence that is asked for."""
NEAR = 40
"""Sentences on either side among which the wrong choices are."""
MAX_TOKENS = 512
"""Tokens of a question with all of its choices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A context and its continuations, with their leading space, the right one first."""

    context: str
    choices: tuple[str, ...]


def questions(text: str, count: int) -> list[Question]:
    """At most `count` questions, evenly over the text."""
    paragraphs = [p.strip() for p in text.split("\n") if not p.strip().startswith("=")]
    split = [re.split(r"(?<=[.!?])\s+(?=[A-Z])", p) for p in paragraphs]
    sentences = [(number, s) for number, paragraph in enumerate(split) for s in paragraph]
    long = [len(s.split()) >= SHORTEST for _, s in sentences]
    at = [
        i
        for i in range(2, len(sentences))
        if long[i] and len({sentences[j][0] for j in (i - 2, i - 1, i)}) == 1
    ]
    rng = np.random.default_rng(SEED)
    result: list[Question] = []
    for i in [
        at[k] for k in np.unique(np.linspace(0, len(at) - 1, min(count, len(at))).astype(int))
    ]:
        near = [
            j
            for j in range(max(0, i - NEAR), min(len(sentences), i + NEAR))
            if long[j] and abs(i - j) > 2
        ]
        if len(near) >= CHOICES - 1:
            picked = [i, *rng.choice(near, CHOICES - 1, replace=False)]
            starts = tuple(" " + " ".join(sentences[j][1].split()[:CHOICE_WORDS]) for j in picked)
            result.append(
                Question(context=f"{sentences[i - 2][1]} {sentences[i - 1][1]}", choices=starts)
            )
    return result


def correct_answers(path: Path, asked: list[Question], threads: int | None = None) -> list[bool]:
    """Which questions a GGUF answers correctly."""
    processes.mark_disposable()  # the context below belongs to an engine in this process
    lib = library()
    with RUNTIME.open(path, threads=threads) as engine:
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = MAX_TOKENS
        params.n_seq_max, params.kv_unified = CHOICES, True
        params.n_threads = params.n_threads_batch = threads or default_threads()
        context = lib.llama_init_from_model(engine._model, params)
        batch = lib.llama_batch_init(MAX_TOKENS, 0, CHOICES)
        try:
            scores = [_scores(lib, engine, context, batch, question) for question in asked]
        finally:
            lib.llama_batch_free(batch)
            lib.llama_free(context)
    return [int(np.argmax(s)) == 0 for s in scores]


def _scores(lib: Any, engine: Any, context: Any, batch: Any, question: Question) -> list[float]:
    """Log-likelihood per byte of every choice: the context is read once, for all of them."""
    given = engine.tokenize(question.context, add_bos=True)
    # As the harness does: tokens of the whole, less as many as the context has.
    tails = [
        engine.tokenize(question.context + c, add_bos=True)[len(given) :] for c in question.choices
    ]
    rows: list[tuple[int, int, list[int]]] = [
        (t, i, list(range(len(tails)))) for i, t in enumerate(given)
    ]
    for number, tail in enumerate(tails):
        rows += [(t, len(given) + i, [number]) for i, t in enumerate(tail[:-1])]
    if len(rows) > MAX_TOKENS:
        raise ValueError(f"a question of {len(rows)} tokens")
    batch.n_tokens = len(rows)
    for i, (token, position, sequences) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, len(sequences)
        for k, sequence in enumerate(sequences):
            batch.seq_id[i][k] = sequence
        batch.logits[i] = i >= len(given) - 1
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    if lib.llama_decode(context, batch):
        raise RuntimeError(f"llama.cpp failed on {engine.path}")
    shape = (len(rows) - len(given) + 1, engine.vocab_size)
    logits = np.ctypeslib.as_array(lib.llama_get_logits(context), shape=shape)
    top = logits.max(axis=1, keepdims=True)
    norm = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64))
    scores: list[float] = []
    start = 1
    for tail, choice in zip(tails, question.choices, strict=True):
        # The last token of the context predicts the first token of every choice.
        at = [0, *range(start, start + len(tail) - 1)]
        start += len(tail) - 1
        scores.append(float((logits[at, tail] - norm[at]).sum()) / len(choice.encode()))
    return scores


def standard_error(answers: Any) -> float:
    """Of a mean of single answers, or of paired differences of them."""
    return float(np.std(answers) / max(1, len(answers) - 1) ** 0.5)
