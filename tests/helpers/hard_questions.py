"""Questions that a tiny model answers, each by little, so that few bits lose some of them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers import tiny_models
from kanna import tasks
from kanna._util.progress import Silent
from kanna.evaluation import reference_gguf
from kanna.runtimes.llamacpp import RUNTIME
from kanna.tasks.answering import answers
from kanna.tasks.base import TaskAnswer

QUESTIONS = 30
_PASSED_OVER = 2
"""Pairs of choices still closer, which 8 bits would lose, too."""


def write(path: Path, model: Path) -> Path:
    """Write questions for `choice` whose right answers are those of the model itself."""
    words = sorted({w.strip(".,") for w in tiny_models.TEXT.split() if len(w) > 3})
    lines = [
        {
            "question": f"{words[i % len(words)]} {words[(7 * i + 3) % len(words)]} {i}",
            "choices": [words[(i + k) % len(words)] for k in range(len(words))][:24],
            "answer": 0,
        }
        for i in range(QUESTIONS)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    [chosen] = tasks.choose(f"choice:{path}")
    with RUNTIME.open(reference_gguf(model), context=512, threads=1) as engine:
        given = answers(engine, chosen, chat=bool(engine.chat_template), progress=Silent())
    path.write_text("\n".join(map(json.dumps, map(_hard, lines, given))), encoding="utf-8")
    return path


def _hard(line: dict[str, Any], given: TaskAnswer) -> dict[str, Any]:
    """Two choices that the model tells apart by little."""
    order = sorted(range(len(given.scores)), key=lambda i: given.scores[i])
    pairs = sorted(pairwise(order), key=lambda pair: given.scores[pair[1]] - given.scores[pair[0]])
    worse, better = pairs[_PASSED_OVER]
    return line | {"choices": [line["choices"][i] for i in (better, worse)], "answer": 0}
