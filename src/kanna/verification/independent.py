"""The reference itself, checked against transformers in float32 where that is installed.

Artefact and reference are both read through our families, so a wrong family would agree with
itself; transformers would not agree with it.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import numpy as np

from kanna.checks import Check
from kanna.evaluation.divergence import compare
from kanna.model import F32, Model
from kanna.runtimes.base import Engine
from kanna.sources import Source

EXTRA = "torch"

# Weights up to which the model is also loaded by transformers: four bytes each, and a minute at
# most.
_MOST_PARAMETERS = 1.6e9
# llama.cpp keeps keys and values in float16; the rest is the order of sums.
_KL = 0.002
_TOKENS = 64
_PADDING = 1024


def check(source: Source, model: Model, reference: Engine, ids: list[int]) -> list[Check]:
    """One check; none without transformers, for a source that is no folder, or a large model."""
    if source.kind != "hf" or model.num_parameters > _MOST_PARAMETERS:
        return []
    if (
        importlib.util.find_spec("torch") is None
        or importlib.util.find_spec("transformers") is None
    ):
        return []
    ids = ids[:_TOKENS]
    name = "reference against transformers"
    try:
        # Keyed by the reference's path, which holds the hashes of the source: `compare` asks once
        # per artefact.
        expected = _logits(str(source.path), str(reference.path), tuple(ids))
    except (ImportError, ValueError, KeyError, OSError, RuntimeError, AttributeError) as error:
        # An older transformers may not know the family: that is no fault of the artefact, nor a
        # proof.
        return [
            Check(
                name=name,
                ok=True,
                detail=f"not made: transformers does not load the source ({error})"[:300],
            )
        ]
    logits = reference.logits(ids)
    size = min(expected.shape[1], logits.shape[1])
    # Rows beyond the vocabulary are padding, which either side may have cut.
    if abs(expected.shape[1] - logits.shape[1]) >= _PADDING:
        return [
            Check(
                name=name,
                ok=False,
                detail=f"vocabulary {logits.shape[1]}, not {expected.shape[1]}",
            )
        ]
    _, [scores] = compare(
        np.ascontiguousarray(expected[:, :size]), [logits[:, :size]], np.zeros(len(ids), np.int64)
    )
    kl = float(scores.kl.mean())
    return [
        Check(name=name, ok=kl <= _KL, detail=f"{len(ids)} tokens: KL {kl:.2g} of at most {_KL:g}")
    ]


@lru_cache(maxsize=1)
def _logits(folder: str, _reference: str, ids: tuple[int, ...]) -> F32:
    import torch
    import transformers

    from kanna.runtimes.torch_engine import quiet

    with quiet(transformers), torch.no_grad():
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        return model.eval()(torch.tensor([list(ids)])).logits[0].float().numpy()
