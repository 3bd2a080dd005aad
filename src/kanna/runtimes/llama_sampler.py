"""llama.cpp's samplers, as `Sampling` asks for them."""

from __future__ import annotations

from typing import Any

from kanna.runtimes.base import Sampling


def chain_of(lib: Any, sampling: Sampling) -> Any:
    """A chain of samplers, `llama_sampler`, that the caller frees.

    Args:
        lib: The library.
        sampling: How the next token is chosen.
    """
    seed = sampling.seed
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    if sampling.temperature <= 0:
        steps = [lib.llama_sampler_init_greedy()]
    else:
        steps = [
            lib.llama_sampler_init_top_k(sampling.top_k),
            lib.llama_sampler_init_top_p(sampling.top_p, 1),
            lib.llama_sampler_init_min_p(sampling.min_p, 1),
            lib.llama_sampler_init_temp(sampling.temperature),
            lib.llama_sampler_init_dist(0xFFFFFFFF if seed is None else seed % 2**32),
        ]
    for step in steps:
        lib.llama_sampler_chain_add(chain, step)
    return chain
