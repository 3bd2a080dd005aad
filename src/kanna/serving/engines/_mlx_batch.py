"""Jobs of the MLX engine, in mlx-lm's BatchGenerator: they come and go between any two steps.

Jobs of the same adapters are in one generator, and each generator takes a step in turn.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util import extras
from kanna.errors import FormatError, MissingError
from kanna.model import F32
from kanna.serving.engines._grammar import Grammar
from kanna.serving.engines._jobs import (
    AdapterScales,
    GeneratedToken,
    GenerationJob,
    SamplingParameters,
)
from kanna.serving.engines._mlx_adapters import MlxAdapters
from kanna.serving.engines._sampler import COLDEST, set_logprobs
from kanna.serving.engines.base import EngineConfig

PREFILL = 512
"""Prompt tokens read at a time."""


@dataclass(slots=True, kw_only=True)
class _SharedJobs:
    """Jobs of the same adapters.

    Attributes:
        generator: mlx-lm's.
        jobs: By the number that it gave them.
        failed: Jobs whose grammar could not go on.
    """

    generator: Any
    jobs: dict[int, GenerationJob] = field(default_factory=dict[int, GenerationJob])
    failed: dict[int, Exception] = field(default_factory=dict[int, Exception])


class MlxBatch:
    """A model and the jobs in its batch.

    Made in the thread that uses it: MLX's streams belong to threads.
    """

    def __init__(self, folder: Path, config: EngineConfig) -> None:
        try:
            self._mx: Any = importlib.import_module("mlx.core")
            self._lm: Any = importlib.import_module("mlx_lm.generate")
            self._samples: Any = importlib.import_module("mlx_lm.sample_utils")
            self._caches: Any = importlib.import_module("mlx_lm.models.cache")
            load: Any = importlib.import_module("mlx_lm.utils").load_model
        except ImportError as error:
            raise MissingError(
                f"mlx-lm does not load: {error}", todo=extras.command("mlx")
            ) from error
        try:
            self._model, config_json = load(folder)
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            raise FormatError(f"mlx-lm cannot load {folder}: {error}") from error
        self.vocab_size = int({**config_json, **config_json.get("text_config", {})}["vocab_size"])
        self.context, self.slots = config.context, config.slots
        self._adapters = MlxAdapters(self._model, [Path(path) for path in config.adapters])
        self._shared: dict[AdapterScales, _SharedJobs] = {}
        self._waiting: deque[GenerationJob] = deque()

    def _generator(self) -> Any:
        return self._lm.BatchGenerator(
            self._model,
            completion_batch_size=self.slots,
            prefill_batch_size=min(self.slots, 8),
            prefill_step_size=PREFILL,
        )

    @property
    def pending(self) -> int:
        """Jobs under way or waiting."""
        return self._running + len(self._waiting)

    @property
    def _running(self) -> int:
        return sum(len(shared.jobs) for shared in self._shared.values())

    def add(self, job: GenerationJob) -> None:
        """Take a job in, to begin when there is a slot."""
        self._waiting.append(job)
        for _, error in self._admit():  # where a slot was free, none but this one waited
            if isinstance(error, Exception):
                raise error

    def _admit(self) -> list[tuple[GenerationJob, GeneratedToken | Exception]]:
        """Begin jobs that wait, as long as there are slots; those that cannot, with the reason."""
        refused: list[tuple[GenerationJob, GeneratedToken | Exception]] = []
        while self._waiting and self._running < self.slots:
            job = self._waiting.popleft()
            try:
                self._begin(job)
            except Exception as error:
                refused.append((job, error))
        return refused

    def _begin(self, job: GenerationJob) -> None:
        shared = self._shared.get(job.adapters)
        if shared is None:
            shared = self._shared[job.adapters] = _SharedJobs(generator=self._generator())
        stop = (
            self._lm.StopSequences([[token] for token in job.end_ids])
            if job.end_ids
            else self._lm.StopSequences()
        )
        [uid] = shared.generator.insert(
            [job.ids],
            max_tokens=[job.max_tokens],
            samplers=[self._sampler(job.sampling)],
            logits_processors=[self._processors(job)],
            stop_sequences=[stop],
        )
        shared.jobs[uid], job.state = job, uid

    def remove(self, job: GenerationJob) -> None:
        """Forget a job; one that is not there is no error."""
        if job in self._waiting:
            self._waiting.remove(job)
        shared = self._shared.get(job.adapters)
        if shared is not None and shared.jobs.get(job.state) is job:
            del shared.jobs[job.state]
            shared.generator.remove([job.state])

    def step(self) -> list[tuple[GenerationJob, GeneratedToken | Exception]]:
        """The next token of each job that has one."""
        tokens = self._admit()
        for adapters in list(self._shared):
            tokens += self._step(adapters)
        self._shared = {a: shared for a, shared in self._shared.items() if shared.jobs}
        return tokens

    def _step(
        self, adapters: AdapterScales
    ) -> list[tuple[GenerationJob, GeneratedToken | Exception]]:
        """A step of the jobs that share their adapters."""
        shared = self._shared[adapters]
        self._adapters.switch(adapters)
        try:
            _, responses = shared.generator.next()
        except Exception as error:
            # One job's options can be wrong for the model: those in the batch get the error, the
            # next ones are served.
            del self._shared[adapters]
            return [(job, error) for job in shared.jobs.values()]
        tokens: list[tuple[GenerationJob, GeneratedToken | Exception]] = []
        for response in responses:
            job = shared.jobs.get(response.uid)
            if job is None:
                continue
            if error := shared.failed.pop(response.uid, None):
                self.remove(job)
                tokens.append((job, error))
                continue
            token = GeneratedToken(
                id=int(response.token), finish_reason=response.finish_reason or ""
            )
            if job.top is not None:
                logprobs = np.array(response.logprobs.astype(self._mx.float32))
                set_logprobs(token, logprobs, job.top)
            if token.finish_reason:
                del shared.jobs[response.uid]
            tokens.append((job, token))
        return tokens

    def score(self, ids: Sequence[int], adapters: AdapterScales) -> Iterator[F32]:
        """Logits after each of `ids`, in blocks: f32 [positions, vocab_size]."""
        cache = self._caches.make_prompt_cache(self._model)
        with self._mx.stream(self._lm.generation_stream):
            for start in range(0, len(ids), PREFILL):
                self._adapters.switch(adapters)
                logits = self._model(
                    self._mx.array([list(ids[start : start + PREFILL])]), cache=cache
                )
                yield np.array(logits[0].astype(self._mx.float32))

    def _sampler(self, options: SamplingParameters) -> Any:
        # mlx-lm takes a top_p of 0 for none, where it is the likeliest token alone.
        if options.temperature < COLDEST or options.top_p <= 0:
            return self._samples.greedy_sampler
        if options.top_k >= self.vocab_size:
            options = replace(options, top_k=0)
        if options.seed is None:
            return self._samples.make_sampler(
                temp=options.temperature,
                top_p=options.top_p,
                min_p=options.min_p,
                top_k=options.top_k,
            )
        return self._seeded(options, options.seed)

    def _seeded(self, options: SamplingParameters, seed: int) -> Callable[[Any], Any]:
        """A sampler with the same filters and random numbers of its own.

        Those of mlx-lm are shared by all jobs.
        """
        mx, samples, state = self._mx, self._samples, [self._mx.random.key(seed % 2**63)]

        def sample(logprobs: Any) -> Any:
            if 0 < options.top_p < 1:
                logprobs = samples.apply_top_p(logprobs, options.top_p)
            if options.min_p > 0:
                logprobs = samples.apply_min_p(logprobs, options.min_p, 1)
            if options.top_k > 0:
                logprobs = samples.apply_top_k(logprobs, options.top_k)
            state[0], key = mx.random.split(state[0])
            return mx.random.categorical(logprobs / options.temperature, key=key)

        return sample

    def _processors(self, job: GenerationJob) -> list[Any]:
        options = job.sampling
        processors = list[Any](
            self._samples.make_logits_processors(
                logit_bias={k: v for k, v in options.bias.items() if 0 <= k < self.vocab_size}
                or None,
                repetition_penalty=options.repetition if options.repetition != 1 else None,
                repetition_context_size=self.context,
                presence_penalty=options.presence or None,
                presence_context_size=self.context,
                frequency_penalty=options.frequency or None,
                frequency_context_size=self.context,
            )
        )
        if job.grammar is not None:
            processors.append(self._constrained(job, job.grammar))
        return processors

    def _constrained(self, job: GenerationJob, grammar: Grammar) -> Callable[[Any, Any], Any]:
        """A processor that leaves the tokens that the grammar allows."""
        mx, calls = self._mx, [0]

        def process(context: Any, logits: Any) -> Any:
            # The context ends with what was chosen last; at first it is the prompt alone.
            try:
                if calls[0]:
                    token = int(context[-1])
                    if token not in job.end_ids:
                        grammar.accept(token)
                calls[0] += 1
                mask = mx.array(grammar.allowed(logits.shape[-1]))
            except Exception as error:
                self._shared[job.adapters].failed[job.state] = error  # the others go on
                return logits
            return mx.where(mask, logits, -float("inf"))

        return process
