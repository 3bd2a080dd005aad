"""`kanna merge`: equal to PEFT's own merge, and to what PEFT computes unmerged."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters
from helpers.disturbances import small_disk
from helpers.tiny_adapters import RECIPES, change_config
from safetensors.numpy import load_file, save_file

import kanna
from kanna.adapters import open_adapter
from kanna.cli.main import cli
from kanna.errors import FormatError, KannaError, RefusedError, SourceError, UnsupportedError

needs.package("peft")
IDS = list(range(5, 40))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("merging")


def adapted(home: Path, name: str) -> tuple[Path, Path, Any]:
    """Base, adapter and PEFT's model of a recipe."""
    recipe = RECIPES[name]
    source = tiny_adapters.base(recipe.family, home / recipe.family)
    model = tiny_adapters.make(source, home / f"{name}-adapter", **recipe.config)
    return source, home / f"{name}-adapter", model


def torch_logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


def folder_logits(folder: Path) -> np.ndarray:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return torch_logits(model)


@pytest.mark.parametrize("name", RECIPES)
def test_the_merged_model_computes_what_peft_does(home: Path, name: str) -> None:
    import torch

    source, adapter, model = adapted(home, name)
    unmerged = torch_logits(model)
    result = kanna.merge(source, adapter, home / f"{name}-merged", threads=2)
    assert result.preset == "f32"
    merged = folder_logits(home / f"{name}-merged")
    assert np.abs(unmerged - folder_logits(source)).max() > 0.02 * unmerged.std()
    assert np.abs(merged - unmerged).max() < 1e-4 * unmerged.std()
    if not RECIPES[name].merges:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = model.merge_and_unload().state_dict()
    kanna.merge(source, adapter, home / f"{name}-half", encoding="f16", threads=1)
    ours = load_file(home / f"{name}-half" / "model.safetensors")
    for key, values in ours.items():
        wanted = theirs[key].to(torch.float16).numpy()
        distance = np.abs(values.astype(np.float32) - wanted.astype(np.float32))
        assert (distance <= np.spacing(np.abs(wanted)).astype(np.float32)).all(), key


def test_bfloat16_stays_and_is_within_one_step_of_peft(home: Path) -> None:
    import torch
    import transformers

    source = home / "bf16"
    base = tiny_adapters.base("llama", home / "llama")
    transformers.AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16").save_pretrained(
        source
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, source)
    model = tiny_adapters.make(source, home / "bf16-adapter", target_modules=["q_proj", "up_proj"])
    result = kanna.merge(source, home / "bf16-adapter", home / "bf16-merged", threads=1)
    assert result.preset == "bf16"
    from safetensors.torch import load_file as load

    ours, theirs = load(home / "bf16-merged" / "model.safetensors"), model.merge_and_unload()
    for key, wanted in theirs.state_dict().items():
        steps = ours[key].view(torch.int16).int() - wanted.to(torch.bfloat16).view(torch.int16)
        # Where base and change cancel out, the order of sums in float32 is all that is left.
        far = (ours[key].float() - wanted).abs() > 1e-7 * wanted.abs().max()
        assert (steps.abs()[far] <= 1).all(), key


def test_several_adapters_add_up_by_their_weights(home: Path) -> None:
    source, first, _ = adapted(home, "lora")
    second = home / "second"
    tiny_adapters.make(source, second, seed=9, target_modules=["up_proj"], use_rslora=True)
    kanna.merge(source, [f"{first}=0.5", f"{second}=-2"], home / "several", threads=1)
    kanna.merge(source, {str(first): 0.5, str(second): -2.0}, home / "mapped", threads=1)
    plain, half = load_file(source / "model.safetensors"), home / "several" / "model.safetensors"
    assert half.read_bytes() == (home / "mapped" / "model.safetensors").read_bytes()
    one, other = (load_file(f / "adapter_model.safetensors") for f in (first, second))
    name = "model.layers.1.mlp.up_proj"
    key = f"base_model.model.{name}.lora_{{}}.weight"
    wanted = (
        plain[f"{name}.weight"]
        + 0.5 * 6 / 4 * one[key.format("B")] @ one[key.format("A")]
        - 2 * 6 / 2 * other[key.format("B")] @ other[key.format("A")]
    )
    assert np.abs(load_file(half)[f"{name}.weight"] - wanted).max() < 1e-5


def test_the_bytes_do_not_depend_on_threads_and_untouched_tensors_stay(home: Path) -> None:
    source, adapter, _ = adapted(home, "dora")
    for threads in (1, 2):
        kanna.merge(source, adapter, home / f"threads{threads}", threads=threads)
    one, two = (home / f"threads{n}" / "model.safetensors" for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    before, after = load_file(source / "model.safetensors"), load_file(one)
    same = [n for n in before if np.array_equal(before[n], after[n])]
    assert {n for n in before if not n.endswith(("_proj.weight",)) or "gate" in n} <= set(same)


def test_straight_into_a_gguf_which_is_the_merged_folders(home: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    kanna.merge(source, adapter, home / "copy", threads=1)
    kanna.convert(home / "copy", home / "of-copy.gguf", preset="Q8_0", threads=1)
    kanna.merge(source, adapter, home / "direct.gguf", preset="Q8_0", threads=1)
    from kanna.formats import gguf

    one, other = (gguf.read(home / n) for n in ("direct.gguf", "of-copy.gguf"))
    for name, tensor in one.tensors.items():
        same = other.tensors[name]
        assert tensor.dtype == same.dtype
        rows, others = tensor.raw(0, 1), same.raw(0, 1)
        assert rows is not None and others is not None and np.array_equal(rows, others), name
    assert str(one.value("kanna.command")).startswith("kanna merge llama lora-adapter --preset")
    hashes = json.loads(str(one.value("kanna.source.sha256")))
    assert {"model.safetensors", "adapter_model.safetensors"} <= set(hashes)
    assert kanna.merge(source, adapter, home / "whole.gguf", threads=1).preset in ("F16", "BF16")


def test_new_tokens_bring_rows_and_their_tokenizer(home: Path) -> None:
    import tokenizers

    source, adapter, _ = adapted(home, "modules-to-save")
    grown = home / "grown"
    shutil.copytree(adapter, grown)
    values = load_file(grown / "adapter_model.safetensors")
    for key in [k for k in values if "lora" not in k]:
        values[key] = np.concatenate([values[key], np.ones((2, values[key].shape[1]), np.float32)])
    save_file(values, grown / "adapter_model.safetensors")
    own = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    own.add_special_tokens([f"<new{i}>" for i in range(12)])
    own.save(str(grown / "tokenizer.json"))
    shutil.copy(source / "tokenizer_config.json", grown)
    result = kanna.merge(source, grown, home / "grown-merged", threads=1)
    assert any("tokenizer is that of" in note for note in result.notes)
    config = json.loads((home / "grown-merged" / "config.json").read_text())
    assert config["vocab_size"] == 514
    assert b"<new11>" in (home / "grown-merged" / "tokenizer.json").read_bytes()
    kanna.merge(source, grown, home / "grown.gguf", threads=1)


def mlx_folder(home: Path, adapter: Path, kind: str = "lora") -> Path:
    """The same adapter as mlx-lm would save it."""
    folder = home / f"mlx-{adapter.name}"
    folder.mkdir()
    values = load_file(adapter / "adapter_model.safetensors")
    renamed = {
        k.removeprefix("base_model.model.")
        .replace("lora_A.weight", "lora_a")
        .replace("lora_B.weight", "lora_b")
        .replace("lora_magnitude_vector", "m"): np.ascontiguousarray(v.T)
        for k, v in values.items()
    }
    save_file(renamed, folder / "adapters.safetensors")
    parameters = {"rank": 4, "scale": 1.5, "dropout": 0.0}
    config = {"fine_tune_type": kind, "num_layers": 3, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_the_layout_of_mlx_lm_gives_the_same(home: Path, name: str) -> None:
    source, adapter, _ = adapted(home, name)
    folder = mlx_folder(home, adapter, name)
    assert open_adapter(folder).layout == "mlx-lm"
    outs = []
    for at, one in enumerate((adapter, folder)):
        kanna.merge(source, one, home / f"{name}-{at}", threads=1)
        outs.append(load_file(home / f"{name}-{at}" / "model.safetensors"))
    assert all(np.array_equal(outs[0][k], outs[1][k]) for k in outs[0])


def test_prefixes_of_wrappers_are_known(home: Path, tmp_path: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    wanted = open_adapter(adapter).low_rank
    copy = tmp_path / "copy"
    for before, after in (
        ("base_model.model.", ""),
        ("base_model.model.", "base_model.model.base_model.model."),
        ("model.layers", "_orig_mod.model.layers"),
        (".weight", ".default.weight"),
        ("self_attn", "_checkpoint_wrapped_module.self_attn"),
    ):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(adapter, copy)
        values = load_file(adapter / "adapter_model.safetensors")
        renamed = {k.replace(before, after): v for k, v in values.items()}
        save_file(renamed, copy / "adapter_model.safetensors")
        assert open_adapter(copy).low_rank.keys() == wanted.keys()
    kanna.merge(source, copy, dry_run=True)


CONFIGS: dict[str, tuple[dict[str, Any], type[KannaError], str]] = {
    "type": ({"peft_type": "VERA"}, UnsupportedError, "VERA"),
    "activated": ({"alora_invocation_tokens": [1]}, UnsupportedError, "activated"),
    "pooled": ({"use_qalora": True}, UnsupportedError, "QA-LoRA"),
    "repeated": ({"layer_replication": [[0, 2]]}, UnsupportedError, "repeats layers"),
    "experts": ({"target_parameters": ["x"]}, UnsupportedError, "experts"),
    "moved base": ({"init_lora_weights": "pissa_niter_4"}, UnsupportedError, "pissa"),
    "loftq": ({"init_lora_weights": "loftq"}, UnsupportedError, "loftq"),
    "rank": ({"r": 8}, FormatError, "ranks 4 and 4"),
    "rank of one": ({"rank_pattern": {"q_proj": 2}}, FormatError, "says 2"),
    "no rank": ({"r": "four"}, FormatError, "r = 'four'"),
    "no alpha": ({"lora_alpha": float("nan")}, FormatError, "lora_alpha"),
    "pattern": ({"alpha_pattern": {"(": 1}}, FormatError, "pattern"),
    "value of a pattern": ({"alpha_pattern": {"q_proj": "x"}}, FormatError, "alpha_pattern"),
    "ranks that are none": ({"rank_pattern": [1]}, FormatError, "rank_pattern"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_asks_for_is_taken_or_refused(home: Path, tmp_path: Path, name: str) -> None:
    source, adapter, _ = adapted(home, "lora")
    values, error, words = CONFIGS[name]
    shutil.copytree(adapter, tmp_path / "adapter")
    change_config(tmp_path / "adapter", **values)
    with pytest.raises(error, match=words):
        kanna.merge(source, tmp_path / "adapter", tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


def _cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _cut_header(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:300])


PREFIX = "base_model.model.model"
FIRST = f"{PREFIX}.layers.0.self_attn.q_proj.lora_A.weight"


def _without(end: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file({k: v for k, v in load_file(path).items() if not k.endswith(end)}, path)

    return change


def _with(name: str, shape: tuple[int, ...], value: float = 1.0) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(load_file(path) | {name: np.full(shape, value, np.float32)}, path)

    return change


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _removed(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


BROKEN: dict[str, tuple[Callable[[Path], None], type[KannaError], str]] = {
    "truncated": (_cut, FormatError, "truncated"),
    "truncated header": (_cut_header, FormatError, "truncated"),
    "half of a pair": (_without("1.self_attn.q_proj.lora_A.weight"), FormatError, "A is missing"),
    "pickled": (_pickled, RefusedError, "pickle"),
    "no weights": (_removed, SourceError, "no weights"),
    "a shard": (_with(FIRST, (9,)), FormatError, "gathered"),
    "a layer more": (
        _with(f"{PREFIX}.layers.40.mlp.up_proj.weight", (512, 256)),
        SourceError,
        "layer 40, the model has 3",
    ),
    "another module": (
        _with(f"{PREFIX}.vision.proj.weight", (4, 4)),
        SourceError,
        "model.vision.proj.weight, which",
    ),
    "another variant": (
        _with(f"{PREFIX}.layers.0.mlp.up_proj.lora_E", (4, 1)),
        UnsupportedError,
        "lora_E",
    ),
    "not a number": (_with(FIRST, (4, 256), np.nan), FormatError, rf"NaN.* in {re.escape(FIRST)}"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_adapter_is_refused_and_nothing_written(
    home: Path, tmp_path: Path, name: str
) -> None:
    source, adapter, _ = adapted(home, "lora")
    change, error, words = BROKEN[name]
    shutil.copytree(adapter, tmp_path / "adapter")
    change(tmp_path / "adapter")
    with pytest.raises(error, match=words):
        kanna.merge(source, tmp_path / "adapter", tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["merged", "merged.gguf"])
def test_a_disk_without_room_is_refused_and_nothing_written(
    home: Path, tmp_path: Path, name: str
) -> None:
    source, adapter, _ = adapted(home, "lora")
    with small_disk(tmp_path / "small", "1m") as disk:
        with pytest.raises(KannaError, match="space|free|disk"):
            kanna.merge(source, adapter, disk / name, threads=1)
        assert not list(disk.iterdir())


def test_another_base_is_refused(home: Path, tmp_path: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    other = tiny_adapters.base("phi3", home / "phi3")
    with pytest.raises(SourceError, match="which the model has not"):
        kanna.merge(other, adapter, tmp_path / "out")
    shutil.copytree(adapter, tmp_path / "wide")
    values = load_file(adapter / "adapter_model.safetensors")
    wide = {k: np.repeat(v, 2, axis=1) if "lora_A" in k else v for k, v in values.items()}
    save_file(wide, tmp_path / "wide" / "adapter_model.safetensors")
    with pytest.raises(SourceError, match=r"\[512, 512\], the model \[512, 256\]"):
        kanna.merge(source, tmp_path / "wide", tmp_path / "out")
    shutil.copytree(adapter, tmp_path / "named")
    change_config(tmp_path / "named", base_model_name_or_path="meta/Other-1B")
    notes = kanna.merge(source, tmp_path / "named", dry_run=True).notes
    assert any("trained on meta/Other-1B, this is llama" in note for note in notes)
    opened = kanna.open_source(source)
    opened.revision = "a" * 40
    with pytest.raises(SourceError, match="trained on meta/Other-1B"):
        kanna.merge(opened, tmp_path / "named", dry_run=True)
    change_config(tmp_path / "named", base_model_name_or_path="unsloth/LLAMA-unsloth-bnb-4bit")
    kanna.merge(opened, tmp_path / "named", dry_run=True)


def test_mixed_dora_is_refused(home: Path, tmp_path: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    _, dora, _ = adapted(home, "dora")
    _, saved, _ = adapted(home, "modules-to-save")
    for given in ([f"{dora}=0.5"], [adapter, dora], [f"{saved}=2"]):
        with pytest.raises(SourceError, match="weight"):
            kanna.merge(source, given, tmp_path / "out")


def test_a_quantized_base_says_what_it_costs(home: Path, tmp_path: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    kanna.convert(source, tmp_path / "mlx", format="mlx", preset="q8", threads=1)
    result = kanna.merge(tmp_path / "mlx", adapter, tmp_path / "out", threads=1)
    assert any("already quantized" in note and "16-bit" in note for note in result.notes)


def test_the_command(home: Path, tmp_path: Path) -> None:
    source, adapter, _ = adapted(home, "lora")
    out = tmp_path / "merged"

    def run(*words: object) -> Any:
        return CliRunner().invoke(cli, ["merge", *map(str, words)])

    done = run(source, adapter, "-o", out, "--threads", 1, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["paths"] == [str(out)]
    assert run(source, adapter, "-o", out).exit_code == 1  # it is there
    assert run(source, adapter, "-o", out, "--overwrite", "--threads", 1).exit_code == 0
    assert run(source, adapter).exit_code == 2
    assert run(source, "-o", tmp_path / "x").exit_code == 2
    assert run(source, f"{adapter}=nan", "-o", tmp_path / "x").exit_code == 2
    assert run(source, adapter, adapter, "-o", tmp_path / "x").exit_code == 2
    assert run(source, "absent", "-o", tmp_path / "x").exit_code == 2
    assert run(source, source, "-o", tmp_path / "x").exit_code == 1
    both = run(source, adapter, "-o", tmp_path / "x", "--preset", "Q8_0", "--encoding", "f16")
    assert both.exit_code == 2
    assert not (tmp_path / "x").exists()
    for words in (("--dry-run",), ("-o", tmp_path / "v.gguf", "--verify")):
        shown = run(source, adapter, *words, "--threads", 1)
        assert shown.exit_code == 0, shown.output


def test_references_are_of_the_weight_and_config_they_were_made_with(home: Path) -> None:
    from kanna.adapters import merged_source, open_adapters
    from kanna.evaluation.reference import reference_folder

    source, adapter, _ = adapted(home, "rslora")
    other = home / "other-alpha"
    shutil.copytree(adapter, other)
    change_config(other, lora_alpha=1.0)
    opened = kanna.open_source(source)
    given = (str(adapter), f"{adapter}=0.5", str(other))
    folders = [reference_folder(merged_source(opened, open_adapters(one))) for one in given]
    assert len(set(folders)) == 3 and source not in folders
