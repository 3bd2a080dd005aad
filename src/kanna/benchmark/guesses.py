"""Guesses of what drafts for an artefact, counted in its runtime in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna._util.processes import ask

OWN_HEAD = "mtp"
"""What stands for a model's own head in place of a draft model, as in llama.cpp's `draft-mtp`."""


def counted(
    path: Path,
    draft: Path | str,
    *,
    threads: int | None,
    tokens: int = 0,
    prompts: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Figures of speculative decoding, see `drafting.figures`.

    Args:
        path: What is drafted for.
        draft: A draft model of the same vocabulary, or OWN_HEAD.
        threads: Threads to use.
        tokens: Tokens that are written after the usual prompt.
        prompts: A file of other prompts; None: the usual one.
        variables: Added to the environment of the process.

    Raises:
        KannaError: The process failed.
    """
    task: dict[str, Any] = {
        "path": str(path),
        "tokens": tokens,
        "threads": threads,
        "prompts": prompts,
    }
    module = "kanna.benchmark.own_head"
    if draft != OWN_HEAD:
        module, task["draft"] = "kanna.benchmark.drafting", str(draft)
    return ask(module, task, f"guessing what {path} writes", variables=variables)
