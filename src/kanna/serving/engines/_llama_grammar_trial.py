"""Grammars on trial in llama.cpp: compiled, and a few tokens of an answer tried.

llama.cpp keeps every way in which a grammar can go on, so that forty bytes can mean more ways than
there is memory. The trial runs its own sampler, with the vocabulary of the model.
"""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Callable
from typing import Any

from kanna import libllama
from kanna.libllama.functions import LOG_CALLBACK
from kanna.serving.engines import _guidance_trial
from kanna.serving.engines.guidance import LLGUIDANCE

_STEPS, _WHOLE = 64, 2
"""Tokens that are tried, and how many of them among the whole vocabulary."""
_SAMPLE = 400
"""Tokens among which the others are chosen."""
_REFUSED = -1e30
_TOKEN_TIME = 0.4
"""Seconds of the processor that a grammar may take for one token, for which everybody waits."""


class _Candidate(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float))


class _Candidates(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.POINTER(_Candidate)),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    )


def prepare(artefact: str) -> _guidance_trial.Attempt:
    """A function that tries schemas and grammars for a GGUF file.

    Args:
        artefact: The file.
    """
    guidance = _guidance_trial.prepare(artefact)
    trial = _GrammarTrial(artefact)

    def attempt(kind: str, text: str) -> str:
        if kind == "schema" or text.lstrip().startswith(LLGUIDANCE):
            return guidance(kind, text)
        return trial.attempt(text)

    return attempt


class _GrammarTrial:
    """llama.cpp's grammar sampler without a model: the vocabulary alone is loaded."""

    def __init__(self, artefact: str) -> None:
        library: Any = libllama.load(libllama.PREBUILT).functions
        self._log = LOG_CALLBACK(lambda *_: None)
        library.llama_log_set(self._log, None)
        _declare(library)
        options = library.llama_model_default_params()
        options.vocab_only = True
        model = library.llama_model_load_from_file(artefact.encode(), options)
        self._library = library
        self._vocab = library.llama_model_get_vocab(model)
        count = int(library.llama_vocab_n_tokens(self._vocab))
        self._ids = [i for i in range(count) if not library.llama_vocab_is_eog(self._vocab, i)]
        self._whole = (_Candidate * len(self._ids))()

    def attempt(self, grammar: str) -> str:
        """Why llama.cpp refuses a grammar, or ""."""
        library = self._library
        for repeats in (False, True):
            sampler = library.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
            if not sampler:
                return "llama.cpp cannot read it"
            self._walk(sampler, repeats=repeats)
            library.llama_sampler_free(sampler)
        return ""

    def _walk(self, sampler: Any, *, repeats: bool) -> None:
        """Accept tokens as a model might: any, or the same one for as long as it may come."""
        library, last = self._library, -1
        choices = random.Random(0)  # the same trial each time
        for step in range(_STEPS):
            if repeats and step and self._allowed(sampler, [last], None):
                library.llama_sampler_accept(sampler, last)
                continue
            whole = step < _WHOLE and not repeats
            ids = self._ids if whole else choices.sample(self._ids, min(_SAMPLE, len(self._ids)))
            allowed = self._allowed(sampler, ids, self._whole if whole else None)
            if not allowed and not whole:
                allowed = self._allowed(sampler, self._ids, self._whole)
            if not allowed:
                break
            last = choices.choice(allowed)
            library.llama_sampler_accept(sampler, last)

    def _allowed(self, sampler: Any, ids: list[int], room: Any) -> list[int]:
        candidates = (_Candidate * len(ids))() if room is None else room
        for candidate, token in zip(candidates, ids, strict=True):
            candidate.id, candidate.logit = token, 0.0
        data = ctypes.cast(candidates, ctypes.POINTER(_Candidate))
        values = _Candidates(data, len(ids), -1, False)
        started = time.process_time()
        self._library.llama_sampler_apply(sampler, ctypes.byref(values))
        if time.process_time() - started > _TOKEN_TIME:
            raise SystemExit("a token takes too long")  # which is what the gateway understands
        return [candidate.id for candidate in candidates if candidate.logit > _REFUSED]


def _declare(library: Any) -> None:
    handle = ctypes.c_void_p
    prototypes: dict[str, tuple[Any, list[Any]]] = {
        "llama_sampler_init_grammar": (handle, [handle, ctypes.c_char_p, ctypes.c_char_p]),
        "llama_sampler_apply": (None, [handle, ctypes.POINTER(_Candidates)]),
        "llama_sampler_accept": (None, [handle, ctypes.c_int32]),
    }
    for name, (result, arguments) in prototypes.items():
        function: Callable[..., Any] = getattr(library, name)
        function.restype, function.argtypes = result, arguments  # type: ignore[attr-defined]
