"""Grammars on trial in llama.cpp: compiled, and a few tokens of an answer tried.

llama.cpp keeps every way in which a grammar can go on, so that forty bytes can mean more ways than
there is memory. The trial runs its own sampler, with the vocabulary of the model.
"""

from __future__ import annotations

import ctypes
import json
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kanna import libllama
from kanna.errors import KannaError
from kanna.libllama.functions import LOG_CALLBACK
from kanna.serving.engines import _guidance_trial
from kanna.serving.engines._llama_chat_grammar import ChatGrammars
from kanna.serving.engines.chat_check import ChatCheck
from kanna.serving.engines.guidance import LLGUIDANCE
from kanna.serving.engines.shapes import CHAT, SCHEMA

_STEPS, _WHOLE = 64, 2
"""Tokens that are tried, and how many of them among the whole vocabulary."""
_STEPS_OF_PART, _GROUPS = 16, 16
"""The same for the parts of a schema, and how many groups of them are tried."""
_RULE = re.compile(r"^([\w-]+)\s*::=", re.M)
_OF_SCHEMA = re.compile(r"^ref-|-schema(?!.*-(kv|rest)$)")
"""Names of the rules that stand for a value of a schema."""
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


def prepare(artefact: str, check: ChatCheck) -> _guidance_trial.Attempt:
    """A function that tries schemas, grammars and chats for a GGUF file.

    Args:
        artefact: The file.
        check: Whether its chat template can be used.
    """
    guidance = _guidance_trial.prepare(artefact)
    trial = _GrammarTrial(artefact)
    chats: ChatGrammars | None = None
    with suppress(KannaError, ImportError):  # then a chat is measured alone
        chats = ChatGrammars(artefact, check)

    def attempt(kind: str, text: str) -> str:
        if kind == CHAT:
            grammar = chats.of(json.loads(text)) if chats else ""
            return trial.attempt_parts(grammar) if grammar else ""
        if kind == SCHEMA or text.lstrip().startswith(LLGUIDANCE):
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
        if not model:
            raise KannaError(f"llama.cpp loads no vocabulary of {artefact}")
        self._library = library
        self._vocab = library.llama_model_get_vocab(model)
        count = int(library.llama_vocab_n_tokens(self._vocab))
        self._ids = [i for i in range(count) if not library.llama_vocab_is_eog(self._vocab, i)]
        texts = ((i, library.llama_vocab_get_text(self._vocab, i)) for i in self._ids)
        self._letters = [i for i, text in texts if len(text) == 1 and not text.isspace()]
        self._whole = (_Candidate * len(self._ids))()

    def attempt(self, grammar: str, root: str = "root") -> str:
        """Why llama.cpp refuses a grammar, or ""."""
        library = self._library
        for repeats in (False, True):
            sampler = library.llama_sampler_init_grammar(
                self._vocab, grammar.encode(), root.encode()
            )
            if not sampler:
                return "llama.cpp cannot read it"
            self._walk(sampler, repeats=repeats, whole=_WHOLE if root == "root" else 0)
            library.llama_sampler_free(sampler)
        return ""

    def attempt_parts(self, grammar: str) -> str:
        """The same for a grammar of llama.cpp's own, from each part of the schemas in it.

        From its root it would take as many tokens as there are brackets and names before them.
        """
        names = [name for name in _RULE.findall(grammar) if _OF_SCHEMA.search(name)]
        groups = [group for i in range(_GROUPS) if (group := names[i::_GROUPS])]
        rules = "\n".join(f"trial-{i} ::= {' | '.join(group)}" for i, group in enumerate(groups))
        text = f"{grammar}\n{rules}\n"
        roots = ["root", *(f"trial-{i}" for i in range(len(groups)))]
        return next((problem for root in roots if (problem := self.attempt(text, root))), "")

    def _walk(self, sampler: Any, *, repeats: bool, whole: int) -> None:
        """Accept tokens as a model might: any, or the same one for as long as it may come."""
        library, last = self._library, -1
        choices = random.Random(0)  # the same trial each time
        for step in range(_STEPS if whole else _STEPS_OF_PART):
            if repeats and step and self._allowed(sampler, [last], None):
                library.llama_sampler_accept(sampler, last)
                continue
            every = step < whole and not repeats
            ids = self._ids if every else choices.sample(self._ids, min(_SAMPLE, len(self._ids)))
            ids = ids if every else [*self._letters, *ids]
            allowed = self._allowed(sampler, ids, self._whole if every else None)
            if not allowed and not every:
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
        "llama_vocab_get_text": (ctypes.c_char_p, [handle, ctypes.c_int32]),
        "llama_sampler_accept": (None, [handle, ctypes.c_int32]),
    }
    for name, (result, arguments) in prototypes.items():
        function: Callable[..., Any] = getattr(library, name)
        function.restype, function.argtypes = result, arguments  # type: ignore[attr-defined]
