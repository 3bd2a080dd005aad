"""LoRA adapters and vectors of texts, in every build of llama.cpp that is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import needs, tiny_models
from safetensors.numpy import load_file, save_file

import kanna
from kanna import generation, libllama
from kanna.cli.main import cli
from kanna.errors import FormatError, KannaError, UsageError
from kanna.libllama import builds
from kanna.runtimes.llama_embeddings import Pooling
from kanna.runtimes.llamacpp import RUNTIME

pytest.importorskip("transformers")
needs.llama_cpp()

TEXTS = ["The quick brown fox", "Once upon a time there was", "hello"]
CHANGED = {
    "blk.1.ffn_up": "model.layers.1.mlp.up_proj",
    "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
}
RANK, ALPHA = 4, 8.0


@pytest.fixture(params=["prebuilt", "native"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One build alone; the prebuilt one is what `kanna[llamacpp]` brings."""
    wanted = builds.PREBUILT if request.param == "prebuilt" else builds.NATIVE
    if wanted.folder is None:
        if request.param == "prebuilt":
            needs.absent("needs the prebuilt llama.cpp", "kanna[llamacpp]")
        pytest.skip("no native build here")
    monkeypatch.setenv("KANNA_LLAMACPP", request.param)
    assert libllama.library().build is wanted
    return str(request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, an adapter of two of its matrices, and the model with both added together."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "source").mkdir()
    model = tiny_models.make("llama", folder / "source")
    kanna.convert(folder / "source", folder / "model.gguf", encoding="f32", threads=1)
    rng = np.random.default_rng(3)
    values = load_file(folder / "source" / "model.safetensors")
    writer = gguf.GGUFWriter(str(folder / "adapter.gguf"), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name, hf_name in CHANGED.items():
        matrix = values[f"{hf_name}.weight"]
        low = rng.standard_normal((RANK, matrix.shape[1])).astype(np.float32) * 0.2
        high = rng.standard_normal((matrix.shape[0], RANK)).astype(np.float32) * 0.2
        writer.add_tensor(f"{name}.weight.lora_a", low)
        writer.add_tensor(f"{name}.weight.lora_b", high)
        values[f"{hf_name}.weight"] = matrix + ALPHA / RANK * (high @ low)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "merged").mkdir()
    for path in (folder / "source").iterdir():
        (folder / "merged" / path.name).write_bytes(path.read_bytes())
    save_file(values, folder / "merged" / "model.safetensors", {"format": "pt"})
    kanna.convert(folder / "merged", folder / "merged.gguf", encoding="f32", threads=1)
    return {"folder": folder, "model": model}


def logits(path: Path, ids: list[int], **options: Any) -> np.ndarray:
    with RUNTIME.open(path, context=64, threads=1, **options) as engine:
        return engine.logits(ids)


def test_an_adapter_is_the_merged_model(build: str, made: dict[str, Any]) -> None:
    folder, ids = made["folder"], list(range(5, 30))
    plain = logits(folder / "model.gguf", ids)
    merged = logits(folder / "merged.gguf", ids)
    adapted = logits(folder / "model.gguf", ids, adapters={folder / "adapter.gguf": 1.0})
    assert np.abs(merged - plain).max() > 0.05 * plain.std()
    assert np.abs(adapted - merged).max() < 2e-3 * merged.std()
    unscaled = logits(folder / "model.gguf", ids, adapters={folder / "adapter.gguf": 0.0})
    assert np.abs(unscaled - plain).max() < 2e-3 * plain.std()


def test_answers_are_of_the_adapted_model(build: str, made: dict[str, Any]) -> None:
    folder, answers = made["folder"], []
    for name, adapters in (("merged.gguf", {}), ("model.gguf", {folder / "adapter.gguf": 1.0})):
        with RUNTIME.open(folder / name, context=64, threads=1, adapters=adapters) as engine:
            ids = engine.tokenize(TEXTS[0], add_bos=True)
            answers.append(list(engine.generate(ids, max_tokens=6, ignore_eog=True)))
    assert answers[0] == answers[1]


def test_what_is_no_adapter_is_refused(build: str, made: dict[str, Any], tmp_path: Path) -> None:
    folder = made["folder"]
    (tmp_path / "text.gguf").write_text("no adapter")
    for name in (folder / "model.gguf", tmp_path / "text.gguf", tmp_path / "absent.gguf"):
        with pytest.raises(FormatError, match="adapter"):
            RUNTIME.open(folder / "model.gguf", context=64, threads=1, adapters={name: 1.0})


def test_vectors_are_those_of_transformers(build: str, made: dict[str, Any]) -> None:
    import torch

    with RUNTIME.open(made["folder"] / "model.gguf", context=64, threads=1) as engine:
        ids = [engine.tokenize(text, add_bos=True) for text in TEXTS]
        with torch.no_grad():
            states = [
                made["model"].model(torch.tensor([i])).last_hidden_state[0].numpy() for i in ids
            ]
        pooled_by: dict[Pooling, Any] = {
            "mean": [s.mean(axis=0) for s in states],
            "last": [s[-1] for s in states],
            "first": [s[0] for s in states],
            "model": [s.mean(axis=0) for s in states],
        }
        for pooling, pooled in pooled_by.items():
            wanted = np.stack([p / np.linalg.norm(p) for p in pooled])
            vectors = engine.embed(TEXTS, pooling=pooling)
            assert vectors.shape == wanted.shape
            assert np.abs(vectors - wanted).max() < 1e-3, pooling
        assert np.isfinite(engine.logits(ids[0])).all()
        with pytest.raises(UsageError, match="context of 64"):
            engine.embed(["word " * 100])
        with pytest.raises(UsageError):
            engine.embed([])


def test_generate_and_chat_take_adapters(made: dict[str, Any]) -> None:
    folder, prompt = made["folder"], "Once upon"
    model, adapter = folder / "model.gguf", folder / "adapter.gguf"

    def answer(path: Path, **options: Any) -> str:
        return kanna.generate(path, prompt, max_tokens=6, threads=1, context=64, **options).text

    plain, merged = answer(model), answer(folder / "merged.gguf")
    assert plain != merged
    for given in (adapter, str(adapter), [adapter], f"{adapter}:1", {adapter: 1.0}):
        assert answer(model, adapter=given) == merged
    assert answer(model, adapter=f"{adapter}:0") == plain == answer(model)
    words = ["generate", str(model), prompt, "--adapter", str(adapter), "--context", "64"]
    words += ["--max-tokens", "6", "--threads", "1", "--json"]
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 0 and json.loads(run.stdout)["text"] == merged
    generation.close()


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf"])
def test_a_scale_that_is_no_number_is_refused(made: dict[str, Any], scale: str) -> None:
    adapter = made["folder"] / "adapter.gguf"
    with pytest.raises(UsageError, match="scale"):
        kanna.generate(made["folder"] / "model.gguf", "x", adapter=f"{adapter}:{scale}")


def test_adapters_that_are_not_there_or_twice_are_refused(made: dict[str, Any]) -> None:
    model, adapter = made["folder"] / "model.gguf", made["folder"] / "adapter.gguf"
    for given in ("absent.gguf", "absent.gguf:0.5", [adapter, f"{adapter}:0.5"]):
        with pytest.raises(KannaError, match="absent|twice"):
            kanna.generate(model, "x", adapter=given)


def test_embed_gives_what_the_runtime_gives(made: dict[str, Any], tmp_path: Path) -> None:
    model = made["folder"] / "model.gguf"
    with RUNTIME.open(model, context=64, threads=1) as engine:
        wanted = engine.embed(TEXTS)
    vectors = kanna.embed(model, TEXTS, threads=1)
    assert np.array_equal(vectors.vectors, wanted)
    assert repr(vectors) == f"<Vectors: 3 vectors of {wanted.shape[1]} numbers>"
    common = ["embed", str(model), "--threads", "1"]
    for name in ("v.npy", "v.json"):
        assert CliRunner().invoke(cli, [*common, *TEXTS, "-o", str(tmp_path / name)]).exit_code == 0
    assert np.array_equal(np.load(tmp_path / "v.npy"), wanted)
    assert np.array_equal(
        np.float32(json.loads((tmp_path / "v.json").read_text())["vectors"]), wanted
    )
    lines = CliRunner().invoke(cli, [*common, "-"], input="\n".join(TEXTS)).stdout.splitlines()
    assert np.array_equal(np.array([json.loads(line) for line in lines], np.float32), wanted)
    refused = CliRunner().invoke(cli, [*common, "x", "-o", str(tmp_path / "v.npy")])
    assert refused.exit_code == 1 and "exists" in refused.stderr
    assert CliRunner().invoke(cli, [*common, "x", "-o", str(tmp_path / "v.csv")]).exit_code == 2
    assert CliRunner().invoke(cli, [*common, "-"], input="").exit_code == 2
