"""Every encoder, end to end: a tiny random model → GGUF → stock llama.cpp, vectors against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs
from helpers.tiny_encoders import MODES, RECIPES, SMALL, make, write_pooling
from helpers.tiny_models import TEXT
from safetensors.torch import load_file

import kanna
from kanna import encodings, families
from kanna.errors import FormatError, KannaError, UnsupportedError, UsageError
from kanna.formats import gguf
from kanna.model import Model, num_rows, u32
from kanna.plan import TensorPlan
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import open_source
from kanna.verification import verify

needs.llama_cpp()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TEXTS = ("the quick brown fox", "Hello Model, read 1234 numbers!", TEXT[:200])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models: waiting for a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


RANKERS = sorted(name for name, recipe in RECIPES.items() if recipe.pooling == "rank")


@pytest.fixture(scope="module", params=sorted(RECIPES.keys() - set(RANKERS)))
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Any]:
    """Recipe name, its folder, and the model as transformers has it."""
    folder = tmp_path_factory.mktemp("encoder")
    return request.param, folder, make(request.param, folder)


def reference(folder: Path, model: Any, pooling: str, texts: tuple[str, ...] = TEXTS) -> np.ndarray:
    """Vectors of length 1 by transformers, with the tokenizer of the folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    with torch.inference_mode():
        for text in texts:
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
            row = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
            for dense in sorted(folder.glob("?_Dense/model.safetensors")):
                row = load_file(dense)["linear.weight"].numpy() @ row
            rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


def embedded(path: Path, texts: tuple[str, ...] = TEXTS) -> np.ndarray:
    with RUNTIME.open_encoder(path, threads=1) as encoder:
        return encoder.embed(texts)


# Least cosine with transformers in float32.
BOUND = {"F32": 0.9999, "F16": 0.9999, "Q8_0": 0.99}


def test_every_encoder_has_a_tiny_model() -> None:
    encoders = {n for n in families.names() if families.get(n).encodes}
    assert encoders <= {r.family for r in RECIPES.values()}


@pytest.mark.parametrize("preset", sorted(BOUND))
def test_vectors_agree_with_transformers(
    tiny: tuple[str, Path, Any], preset: str, tmp_path: Path
) -> None:
    name, folder, model = tiny
    path = tmp_path / "model.gguf"
    kanna.convert(folder, path, preset=preset, threads=1)
    cosine = (embedded(path) * reference(folder, model, RECIPES[name].pooling)).sum(1)
    print(f"MEASURE {name} {preset} {cosine.min():.7f}")
    assert cosine.min() >= BOUND[preset], (name, preset, cosine)
    if preset == "F32":
        result = verify(folder, path, threads=1)
        assert result.status == "proved", result.checks
        assert [c.name for c in result.checks][-2:] == ["tokenizer", "embeddings"]


def test_back_to_hugging_face(tiny: tuple[str, Path, Any], tmp_path: Path) -> None:
    """A GGUF written as a folder again makes the same vectors there, and the same GGUF again."""
    name, folder, model = tiny
    first, again, back = tmp_path / "a.gguf", tmp_path / "b.gguf", tmp_path / "hf"
    kanna.convert(folder, first, preset="F32", threads=1)
    kanna.convert(first, back, format="safetensors", threads=1)
    loaded = transformers.AutoModel.from_pretrained(back, dtype="float32").eval()
    expected = reference(folder, model, RECIPES[name].pooling)
    cosine = (reference(back, loaded, RECIPES[name].pooling) * expected).sum(1)
    assert cosine.min() > 1 - 1e-5
    kanna.convert(back, again, preset="F32", threads=1)
    one, other = gguf.read(first), gguf.read(again)
    assert list(one.tensors) == list(other.tensors)
    for tensor in one.tensors:
        a, b = (f.tensors[tensor].rows(0, num_rows(f.tensors[tensor])) for f in (one, other))
        assert np.array_equal(a, b), tensor
    keys = [
        k
        for k in one.metadata
        if k.startswith(("tokenizer.", str(one.value("general.architecture"))))
    ]
    assert [k for k in keys if not np.array_equal(one.value(k), other.value(k))] == []


def test_a_wrong_pooling_fails_the_gate(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make("bert", folder)
    kanna.convert(folder, tmp_path / "model.gguf", preset="F32", threads=1)
    write_pooling(folder, "cls", SMALL["hidden_size"])
    result = verify(folder, tmp_path / "model.gguf", threads=1)
    assert [c.name for c in result.checks if not c.ok] == ["context and hyperparameters"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    make("bert", folder)
    return folder


def copy_of(folder: Path, out: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, out))


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_pooling_is_the_files_own(bert: Path, tmp_path: Path, mode: str) -> None:
    folder = copy_of(bert, tmp_path / "model")
    write_pooling(folder, mode, SMALL["hidden_size"])
    model = families.load_model(open_source(folder))
    assert model.meta("{arch}.pooling_type") == {"mean": 1, "cls": 2, "last": 3}[mode]
    assert model.meta("{arch}.attention.causal") is False


def test_the_new_spelling_of_a_pooling_is_read(bert: Path, tmp_path: Path) -> None:
    folder = copy_of(bert, tmp_path / "model")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert families.load_model(open_source(folder)).meta("{arch}.pooling_type") == 2


def test_without_modules_the_mean_is_taken_and_said(bert: Path, tmp_path: Path) -> None:
    folder = copy_of(bert, tmp_path / "model")
    (folder / "modules.json").unlink()
    model = families.load_model(open_source(folder))
    assert model.meta("{arch}.pooling_type") == 1
    assert any("modules.json" in note for note in model.notes)


STEPS = '[{"type": "a.Transformer", "path": ""}, {"type": "a.%s", "path": "%s"}]'
BAD_FILES = {
    "two poolings": (
        "1_Pooling/config.json",
        {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
        "max_tokens",
    ),
    "no pooling": ("1_Pooling/config.json", {}, "nothing"),
    "max": ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "max_tokens"),
    "a list": ("1_Pooling/config.json", [], "1_Pooling|config.json"),
    "a dense step": ("modules.json", STEPS % ("Dense", "2_Dense"), "Dense"),
    "another step": ("modules.json", STEPS % ("LSTM", "1_Pooling"), "LSTM"),
    "outside": ("modules.json", STEPS % ("Pooling", "../x"), "inside"),
    "absolute": ("modules.json", STEPS % ("Pooling", "/etc"), "inside"),
    "no folder": ("modules.json", STEPS % ("Pooling", "9_Pooling"), "9_Pooling"),
    "an object": ("modules.json", "{}", "modules.json"),
    "a number": ("modules.json", "[1]", "modules.json"),
    "no type": ("modules.json", '[{"path": ""}]', "type"),
    "no JSON": ("modules.json", "[", "modules.json"),
    "deep": ("modules.json", "[" * 100_000, "modules.json"),
    "many": ("modules.json", json.dumps([{"type": "a.Pooling"}] * 40), "modules.json"),
}


@pytest.mark.parametrize("what", sorted(BAD_FILES))
def test_a_wrong_pooling_is_refused_before_a_weight_is_read(
    bert: Path, tmp_path: Path, what: str
) -> None:
    name, text, match = BAD_FILES[what]
    folder = copy_of(bert, tmp_path / "model")
    (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(KannaError, match=match):
        kanna.convert(folder, tmp_path / "model.gguf", preset="F32")
    assert not (tmp_path / "model.gguf").exists()


TANH = {"in_features": 128, "out_features": 192, "activation_function": "torch.nn.Tanh"}
BIASED = {"linear.weight": (192, 128), "linear.bias": (192,)}
BAD_DENSE: dict[str, tuple[str, Any, str]] = {
    "no weights": ("2_Dense/model.safetensors", None, "2_Dense"),
    "no config": ("3_Dense/config.json", None, "3_Dense"),
    "an activation": ("2_Dense/config.json", TANH, "Tanh"),
    "a list": ("2_Dense/config.json", [1], "config.json"),
    "another width": ("3_Dense/model.safetensors", {"linear.weight": (128, 96)}, r"\[128, 96\]"),
    "a bias": ("2_Dense/model.safetensors", BIASED, "bias"),
    "damaged": ("2_Dense/model.safetensors", "no safetensors", "safetensors|header|bytes"),
    "reads one way": ("config.json", {"use_bidirectional_attention": False}, "one way"),
}  # fmt: skip


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    make("embedding-gemma", folder)
    return folder


@pytest.mark.parametrize("what", sorted(BAD_DENSE))
def test_wrong_layers_after_pooling_are_refused(gemma: Path, tmp_path: Path, what: str) -> None:
    from safetensors.torch import save_file

    name, value, match = BAD_DENSE[what]
    folder = copy_of(gemma, tmp_path / "model")
    path = folder / name
    if value is None:
        path.unlink()
    elif name == "config.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | value))
    elif isinstance(value, dict) and "linear.weight" in value:
        save_file({n: torch.zeros(*shape) for n, shape in value.items()}, path)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(KannaError, match=match):
        families.load_model(open_source(folder))


PROMPTS = {"query": "task: search result | query: ", "document": "title: none | text: "}


def with_prompts(folder: Path, **more: Any) -> Path:
    """The folder with prompts, and what else their file says."""
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": PROMPTS, "default_prompt_name": None} | more)
    )
    return folder


def written(model: Model, path: Path) -> Path:
    """The model as a GGUF, in float32."""
    f32 = encodings.get("f32")
    plans = [TensorPlan(name=n, tensor=t, encoding=f32) for n, t in model.tensors.items()]
    gguf.write(path, metadata=model.metadata, tensors=plans)
    return path


def test_prompts_are_kept_there_and_back(bert: Path, tmp_path: Path) -> None:
    folder = with_prompts(copy_of(bert, tmp_path / "model"), default_prompt_name="document")
    model = families.load_model(open_source(folder))
    assert any("task: search result" in note for note in model.notes)
    path = written(model, tmp_path / "model.gguf")
    made = {name: kanna.embed(path, "honey", prompt=name).vectors for name in ("query", "", None)}
    texts = (PROMPTS["query"] + "honey", "honey", PROMPTS["document"] + "honey")
    for vectors, text in zip(made.values(), texts, strict=True):
        assert np.array_equal(vectors, kanna.embed(path, text, prompt="").vectors)
    assert not np.allclose(made["query"], made[""])
    with pytest.raises(KannaError, match="no prompt is called 'passage'") as refused:
        kanna.embed(path, "honey", prompt="passage")
    assert "query" in refused.value.expected
    _, _, files = families.to_hf(families.load_model(open_source(path)))
    kept = json.loads(files["config_sentence_transformers.json"])
    assert kept == {"prompts": PROMPTS, "default_prompt_name": "document"}


@pytest.mark.parametrize(
    "wrong", [{"prompts": ["query: "]}, {"prompts": {"query": 1}}, {"default_prompt_name": "other"}]
)
def test_prompts_that_are_none_are_refused(bert: Path, tmp_path: Path, wrong: Any) -> None:
    folder = with_prompts(copy_of(bert, tmp_path / "model"), **wrong)
    with pytest.raises(KannaError, match="prompt"):
        families.load_model(open_source(folder))


def test_prompts_of_a_file_that_contradict_each_other_are_refused(
    bert: Path, tmp_path: Path
) -> None:
    model = families.load_model(open_source(with_prompts(copy_of(bert, tmp_path / "model"))))
    model.metadata["sentence_transformers.prompts.names"].value.append("third")
    path = written(model, tmp_path / "model.gguf")
    with pytest.raises(KannaError, match="3 names of prompts and 2 prompts"):
        kanna.embed(path, "honey")


def test_prompts_that_are_not_pooled_are_left_out_and_said(bert: Path, tmp_path: Path) -> None:
    folder = with_prompts(copy_of(bert, tmp_path / "model"))
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    model = families.load_model(open_source(folder))
    assert any("prompts are left out" in note for note in model.notes)
    assert not any("prompt" in key for key in model.metadata)


def test_a_decoder_without_a_head_needs_its_pooling(tmp_path: Path) -> None:
    make("qwen3-embedding", tmp_path)
    assert families.load_model(open_source(tmp_path)).meta("{arch}.pooling_type") == 3
    (tmp_path / "modules.json").unlink()
    with pytest.raises(UnsupportedError, match="without a head"):
        families.load_model(open_source(tmp_path))


def test_nomics_own_keys_are_read(tmp_path: Path) -> None:
    """Published configs have the keys of GPT-2; what the code of the model adds is refused."""
    from kanna.families.nomic_bert import KEYS

    make("nomic-bert", tmp_path)
    expected = families.load_model(open_source(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    old = {**{theirs: config.pop(ours) for theirs, ours in KEYS.items()}, **config}
    old |= {"activation_function": "swiglu", "n_positions": 8192, "max_trained_positions": 512}
    (tmp_path / "config.json").write_text(json.dumps(old | {"rotary_emb_scale_base": None}))
    model = families.load_model(open_source(tmp_path))
    assert model.metadata == expected.metadata and list(model.tensors) == list(expected.tensors)
    for change in ({"prenorm": True}, {"moe_every_n_layers": 2}, {"qkv_proj_bias": True}):
        (tmp_path / "config.json").write_text(json.dumps(old | change))
        with pytest.raises(UnsupportedError, match=next(iter(change))):
            families.load_model(open_source(tmp_path))


BAD_CONFIGS = {
    "activation": ({"hidden_act": "relu"}, "hidden_act"),
    "positions": ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    "decoder": ({"is_decoder": True}, "is_decoder"),
    "heads": ({"num_attention_heads": 5}, "num_attention_heads"),
    "types": ({"type_vocab_size": "two"}, "type_vocab_size"),
    "fewer positions": ({"max_position_embeddings": 64}, "position_embeddings"),
    "cross-encoder": ({"architectures": ["BertForSequenceClassification"]}, "token types"),
}


@pytest.mark.parametrize("what", sorted(BAD_CONFIGS))
def test_a_config_that_llama_cpp_does_not_compute_is_refused(
    bert: Path, tmp_path: Path, what: str
) -> None:
    changes, match = BAD_CONFIGS[what]
    folder = copy_of(bert, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(KannaError, match=match):
        families.load_model(open_source(folder))


def test_older_names_and_heads_of_training_are_read(bert: Path, tmp_path: Path) -> None:
    """Checkpoints of 2018 say gamma and beta, and models for masked words have a prefix."""
    from safetensors.torch import save_file

    folder = copy_of(bert, tmp_path / "model")
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): t
        for name, t in load_file(folder / "model.safetensors").items()
    }
    old["cls.predictions.bias"] = torch.zeros(SMALL["vocab_size"])
    old["bert.embeddings.position_ids"] = torch.arange(4)
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    assert list(families.load_model(open_source(folder)).tensors) == list(
        families.load_model(open_source(bert)).tensors
    )


def test_an_encoder_generates_nothing(bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    kanna.convert(bert, path, preset="Q8_0", threads=1)
    with pytest.raises(FormatError, match="generates none"):
        RUNTIME.open(path)
    refused = {
        "calibrate": lambda: kanna.calibrate(bert, tmp_path / "statistics"),
        "optimize": lambda: kanna.optimize(bert, tmp_path / "out", size="1MB"),
        "compare": lambda: kanna.compare(bert, out=tmp_path / "compared"),
        "mlx": lambda: kanna.convert(bert, tmp_path / "mlx", preset="mlx:q4"),
    }
    for verb, call in refused.items():
        with pytest.raises(UnsupportedError, match="encoder"):
            call()
        assert verb and not list(tmp_path.glob("statistics"))
    with pytest.raises(UsageError, match="next token"):
        kanna.evaluate(path, reference=bert)
    assert any("mean of all tokens" in note for note in kanna.inspect(path).notes)
    assert kanna.fit(bert, memory="1GB", context=128).rows[0].kv_bytes == 0


@pytest.mark.parametrize("name", RANKERS)
def test_scores_agree_with_transformers(name: str, tmp_path: Path) -> None:
    """A cross-encoder by its head, a decoder by the chance of a word; through the server too."""
    folder, path = tmp_path / "model", tmp_path / "model.gguf"
    folder.mkdir()
    make(name, folder)
    kanna.convert(folder, path, preset="F32", threads=1)
    result = verify(folder, path, threads=1)
    assert result.status == "proved", result.checks
    assert result.checks[-1].name == "scores"
    assert any("ranks" in note for note in kanna.inspect(path).notes)
    with pytest.raises(FormatError, match="scores"):
        kanna.embed(path, "a text", threads=1)
    with pytest.raises(FormatError, match="generates none"):
        RUNTIME.open(path)


def test_a_pooling_that_would_end_llama_cpp_is_refused(bert: Path, tmp_path: Path) -> None:
    model = families.load_model(open_source(bert))
    plans = [
        TensorPlan(name=n, tensor=t, encoding=encodings.get("f32"))
        for n, t in model.tensors.items()
    ]
    for number in (5, 99):
        keys = model.metadata | {"bert.pooling_type": u32(number)}
        path = gguf.write(tmp_path / f"{number}.gguf", metadata=keys, tensors=plans).paths[0]
        with pytest.raises(FormatError, match="pooling_type"):
            kanna.embed(path, "a text", threads=1)


QUESTIONS = (
    "How do I keep a plane iron sharp?",
    "Where is the capital of Japan?",
    "At what heat does water boil?",
)


def test_real_weights_find_the_same_texts_at_8_bits(tmp_path: Path) -> None:
    """The order of texts by their cosine with a question is what a search shows."""
    from kanna.sources.packages import minilm
    from kanna.verification.embeddings import SENTENCES

    folder, path = minilm(), tmp_path / "model.gguf"
    kanna.convert(folder, path, preset="Q8_0", threads=1)
    model = transformers.AutoModel.from_pretrained(folder, dtype="float32").eval()
    texts = (*QUESTIONS, *SENTENCES[:8])
    expected, ours = reference(folder, model, "mean", texts), embedded(path, texts)
    assert (expected * ours).sum(1).min() > 0.998
    count = len(QUESTIONS)
    theirs, mine = (np.argsort(-(v[:count] @ v[count:].T), axis=1)[:, :3] for v in (expected, ours))
    assert np.array_equal(theirs, mine)
