"""Every family, end to end.

A tiny random model → GGUF → stock llama.cpp, logits against transformers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs, tiny_models
from helpers.tiny_models import TEXT, make
from helpers.tiny_recipe import Recipe

from kanna import encodings, families
from kanna.formats import gguf
from kanna.model import Model, columns
from kanna.plan import TensorPlan, roles
from kanna.sources import open_source

needs.llama_cpp()
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models: waiting for a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(model: Model, path: Path, encoding: str) -> Path:
    """Every matrix in one encoding, vectors in f32."""
    plans = []
    for name, tensor in model.tensors.items():
        matrix = roles.quantizable(tensor) and columns(tensor) % 32 == 0
        plans.append(
            TensorPlan(
                name=name, tensor=tensor, encoding=encodings.get(encoding if matrix else "f32")
            )
        )
    gguf.write(path, metadata=model.metadata, tensors=plans, overwrite=True)
    return path


def llama_logits(path: Path, ids: list[int]) -> np.ndarray:
    """Logits of stock llama.cpp at every position, f32 [len(ids), vocab].

    The key-value cache is f32 and attention is computed plainly, so that what remains is arithmetic
    noise. The context is as short as llama.cpp allows (256, 512, …): rope factors are chosen by it.
    """
    from kanna.runtimes.llamacpp import library

    lib = library()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    assert model, f"llama.cpp does not load {path}"
    params = lib.llama_context_default_params()
    params.n_ctx = -(-len(ids) // 256) * 256
    params.n_batch = params.n_ubatch = 512
    params.n_outputs_max = 512
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = 0  # GGML_TYPE_F32
    params.flash_attn_type = 0
    context = lib.llama_init_from_model(model, params)
    batch = lib.llama_batch_init(len(ids), 0, 1)
    try:
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert lib.llama_decode(context, batch) == 0
        size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        rows = [
            np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), (size,)).copy()
            for i in range(len(ids))
        ]
    finally:
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        lib.llama_model_free(model)
    return np.stack(rows)


def reference_logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL divergence in nats of each row, from logits."""
    lp, lq = (
        x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
        for x in (p.astype(np.float64), q.astype(np.float64))
    )
    return (np.exp(lp) * (lp - lq)).sum(-1)


# Only the families' own tests need these: what rope parameters change.
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
OWN = {
    name: Recipe("llama", "LlamaForCausalLM", "LlamaConfig", {"rope_parameters": YARN | values})
    for name, values in {
        "yarn-attention": {"original_max_position_embeddings": 256, "attention_factor": 1.25},
        "yarn-scales": {
            "original_max_position_embeddings": 128,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
        },
        "yarn-whole-context": {},
    }.items()
}
RECIPES = tiny_models.RECIPES | OWN


@pytest.fixture(scope="module", params=sorted(RECIPES))
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Any]:
    """Recipe name, its folder, and the model as transformers has it."""
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "RECIPES", RECIPES)
        model = make(request.param, folder)
    return request.param, folder, as_llama_cpp(RECIPES[request.param], model)


def as_llama_cpp(recipe: Recipe, model: Any) -> Any:
    """The model with the known differences of llama.cpp, each named exactly."""
    if recipe.window_lost:  # it computes the model without a window
        model.config.sliding_window = None
        for layer in model.model.layers:
            layer.self_attn.sliding_window = None
    if recipe.deviation_of_sample:  # it divides by one less
        for layer in model.model.layers:
            layer.mlp._gaussian_topk = partial(sparse_activations, layer.mlp.activation_sparsity)
    return model


def sparse_activations(part: float, values: Any) -> Any:
    """What is above the quantile `part` of a normal distribution, of the sample's deviation."""
    above = torch.distributions.normal.Normal(0, 1).icdf(torch.tensor(part))
    mean, deviation = values.mean(-1, keepdim=True), values.std(-1, keepdim=True, unbiased=True)
    return torch.relu(values - mean - deviation * above)


def test_every_family_has_a_tiny_model() -> None:
    decoders = {n for n in families.names() if not families.get(n).encodes}
    assert {r.family for r in RECIPES.values()} == decoders


# Per encoding: mean KL in nats, and largest difference of a logit in standard deviations of the
# logits. About three times the worst that was measured over all families.
BOUND = {"f32": (6e-12, 8e-5), "f16": (5e-6, 5e-2), "bf16": (3e-4, 0.3), "q8_0": (4e-3, 1.0)}

# ggml's CPU code takes GELU from a table of f16 values; nothing in the file can change that.
GELU_BOUND = {"f32": (3e-8, 6e-3)}

ROUTED = 20
"""Tokens that went to other experts are read by those that follow."""


@pytest.mark.parametrize("encoding", sorted(BOUND))
def test_logits_agree_with_transformers(
    tiny: tuple[str, Path, Any], encoding: str, tmp_path: Path
) -> None:
    """A short prompt, and one beyond the sliding window or the original context, if it has one."""
    name, folder, reference = tiny
    recipe = RECIPES[name]
    path = write(families.load_model(open_source(folder)), tmp_path / "model.gguf", encoding)
    ids = np.random.default_rng(1).integers(3, 400, recipe.long).tolist()
    for length in (8, recipe.long):
        theirs = reference_logits(reference, ids[:length])
        ours = llama_logits(path, ids[:length])
        assert ours.shape == theirs.shape
        gelu = recipe.gelu or recipe.family.startswith("gemma")
        rounded = recipe.routed and (gelu or encoding != "f32")
        loose = ROUTED if rounded else recipe.noise
        bound = (GELU_BOUND if gelu else BOUND).get(encoding, BOUND[encoding])
        values, worst = kl(theirs, ours), np.abs(theirs - ours).max() / theirs.std()
        mean = values.mean()
        if rounded:
            # Rounding sends a token to other experts where two are nearly as good: those tokens
            # differ, and the others must not.
            mean, worst = np.median(values), np.median(np.abs(theirs - ours)) / theirs.std()
        print(f"MEASURE {name} {encoding} {length} kl={mean:.3g} max={worst:.3g}")
        assert mean < loose * bound[0] and worst < recipe.noise * bound[1], (
            name,
            encoding,
            length,
            mean,
            worst,
        )


def test_back_to_hugging_face(tiny: tuple[str, Path, Any], tmp_path: Path) -> None:
    """A GGUF written as a folder again is the same model to transformers, tokenizer included."""
    import transformers

    from kanna.formats import safetensors

    name, folder, reference = tiny
    path = write(families.load_model(open_source(folder)), tmp_path / "model.gguf", "f32")
    config, tensors, files = families.to_hf(families.load_model(open_source(path)))
    plans = [
        TensorPlan(name=n, tensor=t, encoding=encodings.get("f32")) for n, t in tensors.items()
    ]
    files["config.json"] = json.dumps(config).encode()
    safetensors.write_folder(tmp_path / "hf", tensors=plans, files=files)
    auto = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", dtype="float32", attn_implementation="eager"
    )
    auto = as_llama_cpp(RECIPES[name], auto)
    ids = np.random.default_rng(1).integers(3, 400, RECIPES[name].long).tolist()
    difference = np.abs(reference_logits(auto, ids) - reference_logits(reference, ids)).max()
    assert difference < 1e-4, difference
    theirs, ours = (
        transformers.AutoTokenizer.from_pretrained(f) for f in (folder, tmp_path / "hf")
    )
    for text in (TEXT, "a  b\n\n12 é 🙂", "<|im_start|>user\nhi<|im_end|>\n"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    messages = [{"role": "user", "content": "hi"}]
    assert ours.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(
        messages, tokenize=False
    )
    again = families.load_model(open_source(tmp_path / "hf"))
    assert list(again.tensors) == list(families.load_model(open_source(folder)).tensors)


def test_both_spellings_of_the_config_give_the_same_file(
    tiny: tuple[str, Path, Any], tmp_path: Path
) -> None:
    """transformers 5 writes `rope_parameters` and `dtype`.

    Transformers 4 wrote the keys they replaced.
    """
    name, folder, _ = tiny
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters", None)
    if rope is None:  # nothing turns
        return
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    rope = dict(rope)
    config["rope_theta"] = rope.pop("rope_theta")
    config["partial_rotary_factor"] = rope.pop("partial_rotary_factor", 1.0)
    config["torch_dtype"] = config.pop("dtype")
    means_default = "rope_parameters" not in families.get(RECIPES[name].family).defaults
    if rope.get("rope_type") != "default" or len(rope) > 1 or not means_default:
        config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    old = tmp_path / folder.name
    shutil.copytree(folder, old)
    (old / "config.json").write_text(json.dumps(config))
    ours, theirs = families.load_model(open_source(old)), families.load_model(open_source(folder))
    assert ours.metadata == theirs.metadata and list(ours.tensors) == list(theirs.tensors)
