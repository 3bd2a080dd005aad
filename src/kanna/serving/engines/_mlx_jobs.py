"""Jobs of the MLX engine.

Mlx-lm's BatchGenerator, which takes them in and lets them go between any two steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import FormatError, MissingError
from kanna.model import F32
from kanna.serving.engines._jobs import Job, Sampling, Token
from kanna.serving.engines._sampler import allowed
from kanna.serving.engines.base import EngineConfig

PREFILL = 512


class MlxJobs:
    """Loaded in the thread that uses it: MLX's streams belong to threads."""

    def __init__(self, folder: Path, config: EngineConfig) -> None:
        try:
            self._mx: Any = importlib.import_module("mlx.core")
            self._lm: Any = importlib.import_module("mlx_lm.generate")
            self._samples: Any = importlib.import_module("mlx_lm.sample_utils")
            self._caches: Any = importlib.import_module("mlx_lm.models.cache")
            load: Any = importlib.import_module("mlx_lm.utils").load_model
        except ImportError as error:
            raise MissingError(
                f"mlx-lm does not load: {error}", todo="pip install 'kanna[mlx]'"
            ) from error
        try:
            self._model, model = load(folder)
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            raise FormatError(f"mlx-lm cannot load {folder}: {error}") from error
        self.vocab_size = int({**model, **model.get("text_config", {})}["vocab_size"])
        self.context, self.slots = config.context, config.slots
        self._make()

    def _make(self) -> None:
        self._batch: Any = self._lm.BatchGenerator(
            self._model,
            completion_batch_size=self.slots,
            prefill_batch_size=min(self.slots, 8),
            prefill_step_size=PREFILL,
        )
        self._jobs: dict[int, Job] = {}

    @property
    def busy(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        stop = (
            self._lm.StopSequences([[token] for token in job.eog])
            if job.eog
            else self._lm.StopSequences()
        )
        [uid] = self._batch.insert(
            [job.ids],
            max_tokens=[job.max_tokens],
            samplers=[self._sampler(job.sampling)],
            logits_processors=[self._processors(job)],
            stop_sequences=[stop],
        )
        self._jobs[uid], job.state = job, uid

    def remove(self, job: Job) -> None:
        if self._jobs.pop(job.state, None) is not None:
            self._batch.remove([job.state])

    def step(self) -> list[tuple[Job, Token | Exception]]:
        try:
            _, found = self._batch.next()
        except Exception as error:
            # One job's options can be wrong for the model: who was in the batch is told, the next
            # ones are served.
            jobs = list(self._jobs.values())
            self._make()
            return [(job, error) for job in jobs]
        tokens: list[tuple[Job, Token | Exception]] = []
        for response in found:
            job = self._jobs.get(response.uid)
            if job is None:
                continue
            token = Token(id=int(response.token), end=response.finish_reason or "")
            if job.top is not None:
                _name(token, np.array(response.logprobs.astype(self._mx.float32)), job.top)
            if token.end:
                del self._jobs[response.uid]
            tokens.append((job, token))
        return tokens

    def score(self, ids: Sequence[int]) -> Iterator[F32]:
        cache = self._caches.make_prompt_cache(self._model)
        with self._mx.stream(self._batch.stream):
            for start in range(0, len(ids), PREFILL):
                logits = self._model(
                    self._mx.array([list(ids[start : start + PREFILL])]), cache=cache
                )
                yield np.array(logits[0].astype(self._mx.float32))

    def _sampler(self, how: Sampling) -> Any:
        if how.temperature <= 0:
            return self._samples.greedy_sampler
        if how.seed is None:
            return self._samples.make_sampler(
                temp=how.temperature, top_p=how.top_p, min_p=how.min_p, top_k=how.top_k
            )
        return self._seeded(how, how.seed)

    def _seeded(self, how: Sampling, seed: int) -> Callable[[Any], Any]:
        """The same filters with random numbers of its own.

        Mlx-lm's are shared by all who generate.
        """
        mx, samples, state = self._mx, self._samples, [self._mx.random.key(seed % 2**63)]

        def sample(logprobs: Any) -> Any:
            if 0 < how.top_p < 1:
                logprobs = samples.apply_top_p(logprobs, how.top_p)
            if how.min_p > 0:
                logprobs = samples.apply_min_p(logprobs, how.min_p, 1)
            if how.top_k > 0:
                logprobs = samples.apply_top_k(logprobs, how.top_k)
            state[0], key = mx.random.split(state[0])
            return mx.random.categorical(logprobs / how.temperature, key=key)

        return sample

    def _processors(self, job: Job) -> list[Any]:
        how = job.sampling
        found = list[Any](
            self._samples.make_logits_processors(
                logit_bias={k: v for k, v in how.bias.items() if k < self.vocab_size} or None,
                repetition_penalty=how.repetition if how.repetition != 1 else None,
                repetition_context_size=self.context,
                presence_penalty=how.presence or None,
                presence_context_size=self.context,
                frequency_penalty=how.frequency or None,
                frequency_context_size=self.context,
            )
        )
        if job.guide is not None:
            found.append(self._guided(job))
        return found

    def _guided(self, job: Job) -> Callable[[Any, Any], Any]:
        mx, seen, guide = self._mx, [0], job.guide

        def process(context: Any, logits: Any) -> Any:
            # The context ends with what was chosen last; at first it is the prompt alone.
            if seen[0]:
                token = int(context[-1])
                if token not in job.eog:
                    guide.consume_token(token)
            seen[0] += 1
            mask = mx.array(allowed(guide, logits.shape[-1]))
            return mx.where(mask, logits, -float("inf"))

        return process


def _name(token: Token, logprobs: Any, top: int) -> None:
    token.logprob = float(logprobs[token.id])
    if top:
        some = np.argpartition(logprobs, -top)[-top:]
        order = some[np.argsort(-logprobs[some], kind="stable")]
        token.top = [(int(i), float(logprobs[i])) for i in order]
