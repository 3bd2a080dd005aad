"""`kanna convert --adapter`: an adapter alone, which computes in the runtime what PEFT computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters
from helpers.tiny_adapters import RECIPES, change_config
from safetensors.numpy import load_file

import kanna
from kanna.adapters import open_adapter
from kanna.cli.main import cli
from kanna.errors import KannaError, OutputError, SourceError, UnsupportedError, UsageError
from kanna.formats import gguf
from kanna.runtimes.llamacpp import RUNTIME

needs.package("peft")
needs.llama_cpp()
IDS = list(range(5, 40))
ALONE = ["lora", "rslora", "alpha-pattern", "rank-pattern", "embedding", "fused"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


def adapted(home: Path, name: str) -> tuple[Path, Path, Any]:
    """Base, adapter and PEFT's model of a recipe."""
    recipe = RECIPES[name]
    source = tiny_adapters.base(recipe.family, home / recipe.family)
    model = tiny_adapters.make(source, home / f"{name}-adapter", **recipe.config)
    if not (home / f"{recipe.family}.gguf").exists():
        kanna.convert(source, home / f"{recipe.family}.gguf", encoding="f32", threads=1)
    return source, home / f"{name}-adapter", model


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergence(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Mean KL divergence, in nats."""
    p, q = log_probabilities(reference), log_probabilities(candidate)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def runtime_logits(model: Path, adapter: Path | None = None) -> np.ndarray:
    adapters: dict[str | Path, float] = {adapter: 1.0} if adapter else {}
    with RUNTIME.open(model, context=64, threads=1, adapters=adapters) as engine:
        return engine.logits(IDS)


@pytest.mark.parametrize("name", ALONE)
def test_llama_cpp_computes_with_it_what_peft_does(home: Path, name: str) -> None:
    import torch

    source, adapter, model = adapted(home, name)
    with torch.no_grad():
        wanted = model(torch.tensor([IDS])).logits[0].numpy()
    result = kanna.convert(source, home / f"{name}.gguf", adapter=adapter, threads=1)
    base = home / f"{RECIPES[name].family}.gguf"
    assert divergence(wanted, runtime_logits(base)) > 1e-3
    assert divergence(wanted, runtime_logits(base, home / f"{name}.gguf")) < 1e-5
    assert result.file_bytes == (home / f"{name}.gguf").stat().st_size
    assert result.preset == "adapter in f32"


def test_plain_lora_keeps_its_alpha_and_values(home: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    kanna.convert(source, home / "plain.gguf", adapter=adapter, encoding="f16", threads=1)
    file = gguf.read(home / "plain.gguf")
    values = load_file(adapter / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.mlp.up_proj.lora_{}.weight"
    assert file.value("adapter.lora.alpha") == 6.0
    assert file.value("general.type") == "adapter"
    for part in "AB":
        stored = file.tensors[f"blk.1.ffn_up.weight.lora_{part.lower()}"]
        wanted = values[stem.format(part)].astype(np.float16).astype(np.float32)
        assert stored.dtype == "f16"
        assert np.array_equal(stored.rows(0, len(wanted)), wanted)
    again = home / "again.gguf"
    kanna.convert(source, again, adapter=adapter, encoding="f16", threads=2)
    assert again.read_bytes() == (home / "plain.gguf").read_bytes()


def test_a_quantized_gguf_is_a_base_too(home: Path) -> None:
    source, adapter, _ = adapted(home, "rslora")
    kanna.convert(source, home / "q8.gguf", preset="Q8_0", threads=1)
    for base, name in ((source, "of-folder"), (home / "q8.gguf", "of-gguf")):
        kanna.convert(base, home / f"{name}.gguf", adapter=adapter, threads=1)
    one, two = (gguf.read(home / f"{n}.gguf").tensors for n in ("of-folder", "of-gguf"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        rows = tensor.shape[0]
        assert np.array_equal(tensor.rows(0, rows), two[name].rows(0, rows)), name


@pytest.mark.parametrize("name", ["lora", "rslora"])
def test_mlx_computes_with_it_what_peft_does(home: Path, name: str) -> None:
    pytest.importorskip("mlx_lm")
    import mlx.core as mx
    import mlx_lm
    import torch

    source, adapter, model = adapted(home, name)
    with torch.no_grad():
        wanted = model(torch.tensor([IDS])).logits[0].numpy()
    out = home / f"{name}-mlx"
    kanna.convert(source, out, adapter=adapter, format="mlx", threads=1)
    loaded = mlx_lm.load(str(source), adapter_path=str(out))[0]
    logits = np.array(loaded(mx.array([IDS]))[0].astype(mx.float32))
    assert divergence(wanted, logits) < 1e-5
    assert open_adapter(out).layout == "mlx-lm"
    kanna.merge(source, out, home / f"{name}-back", threads=1)  # and it is read back


REFUSED = ["dora", "modules-to-save", "tokens", "biases", "tied-head", "tied-embedding"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_runtime_applies_is_refused_with_the_way_out(home: Path, name: str) -> None:
    source, adapter, _ = adapted(home, name)
    with pytest.raises(UnsupportedError, match="kanna merge"):
        kanna.convert(source, home / "refused.gguf", adapter=adapter)
    assert not (home / "refused.gguf").exists()


def test_ranks_that_mlx_lm_cannot_have_are_refused(home: Path) -> None:
    source, adapter, _ = adapted(home, "rank-pattern")
    with pytest.raises(UnsupportedError, match="one rank"):
        kanna.convert(source, home / "refused", adapter=adapter, format="mlx")


def test_a_change_of_weights_that_mlx_lm_holds_multiplied_is_refused(home: Path) -> None:
    source = tiny_adapters.base("falcon-h1", home / "falcon-h1")
    adapter = home / "falcon-h1-adapter"
    tiny_adapters.make(source, adapter, target_modules=["q_proj"])
    with pytest.raises(UnsupportedError, match=r"(?s)q_proj.*kanna merge"):
        kanna.convert(source, home / "refused", adapter=adapter, format="mlx")


def test_another_base_and_a_wrong_config_are_refused(home: Path, tmp_path: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    other, _, _ = adapted(home, "fused")
    with pytest.raises(SourceError, match="which the model has not"):
        kanna.convert(other, tmp_path / "x.gguf", adapter=adapter)
    shutil.copytree(adapter, tmp_path / "wrong")
    change_config(tmp_path / "wrong", r=16)
    with pytest.raises(KannaError, match="ranks"):
        kanna.convert(source, tmp_path / "x.gguf", adapter=tmp_path / "wrong")
    with pytest.raises(UsageError, match="no adapter alone"):
        kanna.convert(source, tmp_path / "x", adapter=adapter, format="openvino")
    refused: list[dict[str, Any]] = [{"preset": "Q4_K_M"}, {"verify": True}, {"encoding": "q8_0"}]
    for options in refused:
        with pytest.raises(UsageError, match="kanna merge"):
            kanna.convert(source, tmp_path / "x.gguf", adapter=adapter, **options)
    assert not any(p.name.startswith("x") for p in tmp_path.iterdir())


def test_the_command(home: Path, tmp_path: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    out = tmp_path / "lora.gguf"

    def run(*words: object) -> Any:
        return CliRunner().invoke(cli, ["convert", str(source), "--adapter", *map(str, words)])

    done = run(adapter, "-o", out, "--threads", 1, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["paths"] == [str(out)]
    assert run(adapter, "-o", out).exit_code == 1
    assert run(adapter, "-o", out, "--overwrite", "--threads", 1).exit_code == 0
    assert run(adapter, "--dry-run").exit_code == 0
    assert run(source, "-o", tmp_path / "x.gguf").exit_code == 1
    assert run("absent", "-o", tmp_path / "x.gguf").exit_code == 2
    assert run(adapter, "-o", tmp_path / "x.gguf", "--preset", "Q8_0").exit_code == 2


def test_a_name_that_leaves_the_format_open_is_told_what_was_chosen(
    home: Path, tmp_path: Path
) -> None:
    source, adapter, _ = adapted(home, "lora")
    named = kanna.convert(source, tmp_path / "lora.gguf", adapter=adapter, threads=1)
    assert not any("names no format" in note for note in named.notes)
    chosen = kanna.convert(source, tmp_path / "lora", adapter=adapter, format="gguf", threads=1)
    assert not any("names no format" in note for note in chosen.notes)
    for name in ("other", "other.safetensors"):
        open_name = kanna.convert(source, tmp_path / name, adapter=adapter, threads=1)
        assert "written as gguf; --format mlx" in open_name.notes[-1]
        assert gguf.read(tmp_path / name).value("general.type") == "adapter"
    with pytest.raises(OutputError, match="the name of a folder"):
        kanna.convert(source, f"{tmp_path}/folder/", adapter=adapter, threads=1)
    assert not (tmp_path / "folder").exists()
