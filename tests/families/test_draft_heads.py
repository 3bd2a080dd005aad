"""Heads for the token after the next: their logits in stock llama.cpp, against torch.

llama.cpp gives the states that they read as the embeddings of
tokens, and their logits in a context of the kind of such heads, both by its C interface.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.test_families import kl, write
from helpers import needs, tiny_models
from helpers.draft_heads import TorchHead

from kanna import families
from kanna.sources import open_source

needs.llama_cpp()
pytest.importorskip("torch")
pytest.importorskip("transformers")

TOKENS = 24
DRAFTING = 1
"""LLAMA_CONTEXT_TYPE_MTP."""
BOUND = {"f32": (4e-11, 3e-4), "f16": (3e-5, 0.1), "q8_0": (2e-2, 3.0)}
"""Mean KL divergence in nats and largest difference in standard deviations: three times what was
measured with Qwen3.5, dense (1.2e-11 and 8e-5, 7.8e-6 and 0.03, 5.9e-3 and 0.95)."""


def drafted(folder: Path, model: Any, ids: Sequence[int]) -> np.ndarray:
    """Logits of the head for what follows each token but the first, f32 [tokens - 1, vocab]."""
    head = TorchHead(folder, model)
    return head.run(ids[1:], head.states(ids)[:-1], 1)[0]


class Context:
    """A context of llama.cpp that computes plainly, for one batch."""

    def __init__(self, lib: Any, model: Any, *, kind: int = 0, embeddings: bool = False) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = 256
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = params.flash_attn_type = 0
        params.ctx_type, params.embeddings = kind, embeddings
        self.lib, self.context = lib, lib.llama_init_from_model(model, params)
        assert self.context

    def decode(self, ids: Sequence[int], first: int, states: np.ndarray | None = None) -> None:
        """Read tokens from position `first`, with the states before them."""
        width = 0 if states is None else states.shape[1]
        batch = self.lib.llama_batch_init(len(ids), width, 1)
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        if states is not None:
            rows = np.ascontiguousarray(states, np.float32)
            ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
            batch.token = ctypes.cast(tokens, type(batch.token))  # which has no room of its own
        batch.n_tokens = len(ids)
        for i in range(len(ids)):
            batch.token[i], batch.pos[i] = ids[i], first + i
            batch.n_seq_id[i] = batch.logits[i] = 1
            batch.seq_id[i][0] = 0
        assert self.lib.llama_decode(self.context, batch) == 0
        if states is not None:
            batch.token = type(batch.token)()
        self.lib.llama_batch_free(batch)

    def rows(self, function: str, count: int, width: int) -> np.ndarray:
        """What a function gives of each token, f32 [count, width]."""
        get = getattr(self.lib, function)
        return np.stack(
            [np.ctypeslib.as_array(get(self.context, i), (width,)).copy() for i in range(count)]
        )


@pytest.fixture(scope="module", params=["qwen35"])
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int], np.ndarray]:
    """A folder, tokens, and what its head drafts after each of them."""
    folder = tmp_path_factory.mktemp("model")
    model = tiny_models.make(request.param, folder)
    ids = np.random.default_rng(1).integers(3, 400, TOKENS).tolist()
    return folder, ids, drafted(folder, model, ids)


@pytest.mark.parametrize("encoding", sorted(BOUND))
def test_a_head_drafts_what_its_weights_say(
    tiny: tuple[Path, list[int], np.ndarray], encoding: str, tmp_path: Path
) -> None:
    from kanna.runtimes.llamacpp import library

    folder, ids, theirs = tiny
    path = write(families.load_model(open_source(folder)), tmp_path / "model.gguf", encoding)
    lib = library()
    params = lib.llama_model_default_params()
    if not (hasattr(params, "load_mtp") and hasattr(lib, "llama_get_embeddings_ith")):
        pytest.skip("this llama.cpp has no heads for further tokens")
    params.load_mtp = True
    given = lib.llama_get_embeddings_ith
    given.argtypes, given.restype = (ctypes.c_void_p, ctypes.c_int), ctypes.POINTER(ctypes.c_float)
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    reading = Context(lib, model, embeddings=True)
    reading.decode(ids, 0)
    hidden = lib.llama_model_n_embd(model)
    states = reading.rows("llama_get_embeddings_ith", len(ids), hidden)
    drafting = Context(lib, model, kind=DRAFTING)
    drafting.decode(ids[1:], 1, states[:-1])
    ours = drafting.rows("llama_get_logits_ith", len(ids) - 1, theirs.shape[1])
    for context in (drafting, reading):
        lib.llama_free(context.context)
    lib.llama_model_free(model)
    mean, worst = kl(theirs, ours).mean(), np.abs(theirs - ours).max() / theirs.std()
    print(f"MEASURE {encoding} kl={mean:.3g} max={worst:.3g}")
    assert mean < BOUND[encoding][0] and worst < BOUND[encoding][1], (mean, worst)
