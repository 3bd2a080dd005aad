"""The reference itself, compared with the source's own library before anything is measured by it.

A reference that our conversion made and an artefact of the same conversion share its mistakes: a
wrong rope agrees with itself. transformers, which reads the source as it was published, does not
agree with it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kanna import runtimes
from kanna._util import library_answers, own_files, transformers_process, verified
from kanna._util.units import format_size
from kanna.checks import AGREES, DIFFERS, OWN, UNCHECKED, ReferenceCheck
from kanna.errors import GateError
from kanna.evaluation import source_library
from kanna.evaluation.divergence import compare
from kanna.evaluation.reference import reference_folder
from kanna.evaluation.text import TEXT
from kanna.hardware.cpu import default_threads
from kanna.hardware.memory import memory
from kanna.model import F32, num_weights
from kanna.runtimes.base import Engine
from kanna.sources import Source, packages

LIMIT = 0.002
"""Most nats: llama.cpp keeps keys and values in float16; the rest is the order of sums."""
TOKENS = 64
_WORKER = "kanna.evaluation.reference_worker"
_FOLDER = "reference-checks"
# The context decides which rope factors llama.cpp takes; transformers goes by the length of the
# text.
_CONTEXT = 256
_LOADED = ("LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "GGML_BACKEND_PATH")
"""Variables that put other code under a runtime: an answer from before says nothing of it."""
_PADDING = 1024
"""Rows beyond the vocabulary are padding, which either side may have cut."""
_LOADING = 1 << 29
"""Bytes that torch and transformers take beside the weights."""


def require(source: Source, reference: Path, *, threads: int | None = None) -> ReferenceCheck:
    """The check of a reference that is about to judge artefacts.

    Args:
        source: What the reference is of.
        reference: The file or folder that runs in its place.
        threads: Threads to use; None: one per physical core.

    Raises:
        GateError: It differs from what the source's own library computes.
    """
    checked = check(source, reference, threads=threads)
    if checked.status == DIFFERS:
        raise GateError(
            f"the reference made of {source.given} and {checked.library} differ: {checked.figures}",
            expected="the same next-token probabilities from both",
            todo="nothing measured against it would be true, so nothing was; kanna or this "
            "transformers reads the source wrongly: try another version of transformers, and "
            "report it (kanna bug-report)",
        )
    return checked


def check(source: Source, reference: Path, *, threads: int | None = None) -> ReferenceCheck:
    """Compare a reference with the source in its own library, on a few tokens; kept in the cache.

    Args:
        source: What the reference is of.
        reference: The file or folder that runs in its place.
        threads: Threads to use; None: one per physical core.
    """
    # Adapters are merged in no folder but that of the reference.
    path = reference_folder(source) if source.merged else source.path
    if reference == path:
        return ReferenceCheck(status=OWN, library=runtimes.of(reference).title)
    library = source_library.LIBRARY[-1]
    if why := source_library.cannot_read(source):
        return ReferenceCheck(status=UNCHECKED, library=library, reason=why)
    versions = [importlib.metadata.version(p) for p in source_library.LIBRARY]
    library = f"{library} {versions[-1]}"
    runtime = runtimes.of(reference)
    question = [
        versions,
        runtime.name,
        runtime.available().version,
        source_library.code_of(_WORKER),
        hashlib.sha256(TEXT.encode()).hexdigest(),
        [verified.digest(path) for path in source.decisive_files],
        _digests(reference),
        *([f"{name}={os.environ[name]}"] for name in _LOADED if os.environ.get(name)),
    ]
    threads = threads or default_threads()
    return _checked(str(path), _needed(source), reference, json.dumps(question), threads)


@lru_cache(maxsize=64)
def _checked(
    folder: str, needed: int, reference: Path, question: str, threads: int
) -> ReferenceCheck:
    """The answer of the cache or the library; kept for this process where there is none, too."""
    free = memory().available

    def ask() -> dict[str, Any]:
        if needed > free:
            return {
                library_answers.FAILURE: f"the source in float32 takes {format_size(needed)}, "
                f"{format_size(free)} are free"
            }
        return _ask(folder, reference, threads)

    answer = library_answers.answer(
        packages.cache_dir() / _FOLDER, question, ask, lambda given: ReferenceCheck(**given)
    )
    if isinstance(answer, str):
        library = source_library.LIBRARY[-1]
        return ReferenceCheck(status=UNCHECKED, library=library, reason=answer)
    return answer


def _ask(folder: str, reference: Path, threads: int) -> dict[str, Any]:
    """The check as JSON has it; {"failure": why} where the library gives no logits."""
    opened = runtimes.of(reference).open(reference, context=_CONTEXT, threads=threads)
    with own_files.scratch() as scratch, opened as engine:
        ids = _ids(engine)
        out = scratch / "logits.npy"
        task = {"folder": folder, "ids": ids, "out": str(out), "threads": threads}
        given = transformers_process.ask(_WORKER, task)
        if library_answers.FAILURE in given:
            return given
        expected: F32 = np.load(out)
        return _compared(given["name"], expected, engine.logits(ids)).to_dict()


def _ids(engine: Engine) -> list[int]:
    """The first tokens of the text, as many as the model was trained on."""
    most = min(TOKENS, engine.trained_context or TOKENS, engine.context)
    return engine.tokenize(TEXT, add_bos=True)[:most]


def _compared(library: str, expected: F32, logits: F32) -> ReferenceCheck:
    """The verdict on the logits of a reference.

    Args:
        library: With its version.
        expected: What it gave, f32 [tokens, vocabulary].
        logits: What the reference gave.
    """
    tokens, size = len(logits), min(expected.shape[1], logits.shape[1])
    if abs(expected.shape[1] - logits.shape[1]) >= _PADDING:
        return ReferenceCheck(
            status=DIFFERS,
            library=library,
            limit=LIMIT,
            tokens=tokens,
            reason=f"a vocabulary of {logits.shape[1]}, not {expected.shape[1]}",
        )
    _, [scores] = compare(
        np.ascontiguousarray(expected[:, :size]), [logits[:, :size]], np.zeros(tokens, np.int64)
    )
    kl = float(scores.kl.mean())
    status = AGREES if kl <= LIMIT else DIFFERS  # also where it is no number
    return ReferenceCheck(status=status, library=library, kl=kl, limit=LIMIT, tokens=tokens)


def _needed(source: Source) -> int:
    """Bytes that the source takes in the library, in float32."""
    return 4 * sum(num_weights(t) for t in source.tensors.values()) + _LOADING


def _digests(reference: Path) -> dict[str, str]:
    """The hash of a reference, by file."""
    paths = sorted(p for p in reference.rglob("*") if p.is_file()) if reference.is_dir() else []
    return {p.name: verified.digest(p) for p in paths or [reference]}
