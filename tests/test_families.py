"""Every family, end to end: a tiny random model → GGUF → stock llama.cpp, logits against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import RECIPES, make

from kanna import encodings, families
from kanna.formats import gguf
from kanna.model import Model, columns
from kanna.plan import TensorPlan
from kanna.sources import open_source

llama_cpp = pytest.importorskip("llama_cpp")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def write(model: Model, path: Path, encoding: str) -> Path:
    """Every matrix in one encoding, vectors in f32."""
    plans = []
    for name, tensor in model.tensors.items():
        matrix = len(tensor.shape) > 1 and columns(tensor) % 32 == 0
        plans.append(TensorPlan(name=name, tensor=tensor, encoding=encodings.get(encoding if matrix else "f32")))
    gguf.write(path, metadata=model.metadata, tensors=plans, overwrite=True)
    return path


def llama_logits(path: Path, ids: list[int]) -> np.ndarray:
    """Logits of stock llama.cpp at every position, f32 [len(ids), vocab]; f32 cache, exact attention."""
    from kanna.runtimes.llamacpp import RUNTIME

    with RUNTIME.open(path, context=256, threads=2) as engine:
        return engine.logits(ids)


def reference_logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL divergence in nats of each row, from logits."""
    lp, lq = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (p.astype(np.float64), q.astype(np.float64)))
    return (np.exp(lp) * (lp - lq)).sum(-1)


@pytest.fixture(scope="module", params=sorted(RECIPES))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    folder = tmp_path_factory.mktemp("tiny") / request.param
    folder.mkdir()
    return request.param, folder, make(request.param, folder)


def test_every_family_has_a_tiny_model() -> None:
    assert {r.family for r in RECIPES.values()} == set(families.names())


# Mean KL in nats: about three times what was measured, per encoding.
BOUND = {"f32": 1e-6, "f16": 1e-4, "bf16": 1e-3, "q8_0": 1e-2}


@pytest.mark.parametrize("encoding", sorted(BOUND))
def test_logits_agree_with_transformers(tiny: tuple[str, Path, Any], encoding: str, tmp_path: Path) -> None:
    name, folder, reference = tiny
    recipe = RECIPES[name]
    model = families.load_model(open_source(folder))
    path = write(model, tmp_path / "model.gguf", encoding)
    ids = np.random.default_rng(1).integers(3, 400, recipe.long).tolist()
    for length in (8, recipe.long):
        theirs = reference_logits(reference, ids[:length])
        ours = llama_logits(path, ids[:length])[:, : theirs.shape[1]]
        same = kl(theirs, ours)[: recipe.exact]
        worst = np.abs(theirs - ours)[: recipe.exact].max() / theirs.std()
        print(f"MEASURE {name} {encoding} {length} kl={same.mean():.3g} max={worst:.3g}")
        assert same.mean() < BOUND[encoding], (name, encoding, length)
