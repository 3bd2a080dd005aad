"""Statistics in use: by llama.cpp, by gptq, and only for the model they were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import kanna
from kanna import families
from kanna.calibration import imatrix, statistics
from kanna.cli.main import cli
from kanna.errors import FormatError, PlanError, UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

pytestmark = pytest.mark.usefixtures("small")


def test_imatrix_for_llama_cpp(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, tmp_path: Path
) -> None:
    found = calibrated[0]
    read = imatrix.read(found.folder / "imatrix.gguf")
    assert read.datasets == ["text.txt"] and read.chunks == 6
    assert set(read.weights) == set(found.site_of)
    for name, values in read.weights.items():
        (block,) = found.read(found.site_of[name], "second")
        np.testing.assert_allclose(values, block.diagonal(), rtol=1e-6)
    words = [
        "convert",
        str(llama),
        "-o",
        str(tmp_path / "m.gguf"),
        "--preset",
        "Q2_K",
        "--imatrix",
        str(found.folder / "imatrix.gguf"),
        "--quiet",
    ]
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 0, run.stderr
    assert kanna.inspect(tmp_path / "m.gguf").family == "llama"


def test_statistics_decide_the_values(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, tmp_path: Path
) -> None:
    """The bytes of `convert --statistics` are those of gptq, and lose less under the moment."""
    from kanna.formats import gguf as container

    found = calibrated[0]
    for method in ("search", "gptq"):
        kanna.convert(
            llama,
            tmp_path / f"{method}.gguf",
            encoding="q4_0",
            statistics=found.folder,
            method=method,
        )
    kanna.convert(llama, tmp_path / "usual.gguf", encoding="q4_0", statistics=found.folder)
    source = families.load_model(kanna.open_source(llama)).tensors
    files = {m: container.read(tmp_path / f"{m}.gguf").tensors for m in ("search", "gptq", "usual")}
    for name, site in found.site_of.items():
        h = found.read(site, "second")[0].astype(np.float64)
        rows = source[name].shape[0]
        values = {m: f[name].rows(0, rows) for m, f in files.items()}
        errors = {m: v.astype(np.float64) - source[name].rows(0, rows) for m, v in values.items()}
        lost = {m: float(np.einsum("ri,ij,rj->", e, h, e)) for m, e in errors.items()}
        assert lost["gptq"] < 0.95 * lost["search"], name
        np.testing.assert_array_equal(values["usual"], values["gptq"])


def test_a_device_is_used_and_named(
    calibrated: tuple[statistics.Statistics, Any],
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By torch's own name for the CPU: no worse than the native code, and said in the file."""
    from kanna.formats import gguf as container
    from kanna.methods import device

    monkeypatch.setattr(device, "LEAST_ROWS", 1)
    found, name = calibrated[0], "blk.0.ffn_down.weight"
    rule = {"pattern": name, "encoding": "q4_0", "method": "gptq"}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"encoding": "q8_0", "rules": [rule]}), encoding="utf-8")
    options = {"plan": plan, "statistics": found.folder, "method": "search"}
    ours, native = tmp_path / "torch.gguf", tmp_path / "native.gguf"
    planned = kanna.convert(llama, dry_run=True, device="cpu:0", **options)
    written = kanna.convert(llama, ours, device="cpu:0", **options)
    kanna.convert(llama, native, device="cpu", **options)
    assert planned.file_bytes == written.file_bytes == ours.stat().st_size
    files = container.read(ours), container.read(native)
    counts = [json.loads(str(f.metadata["kanna.plan.encodings"].value)) for f in files]
    assert counts[0]["q4_0:gptq on cpu:0"] == counts[1]["q4_0:gptq"] == 1
    assert "--device cpu:0" in str(files[0].metadata["kanna.command"].value)
    tensor = families.load_model(kanna.open_source(llama)).tensors[name]
    h = found.read(found.site_of[name], "second")[0].astype(np.float64)
    rows = tensor.shape[0]
    errors = [f.tensors[name].rows(0, rows) - tensor.rows(0, rows) for f in files]
    lost = [float(np.einsum("ri,ij,rj->", e, h, e)) for e in errors]
    assert lost[0] < 1.02 * lost[1]


def test_a_device_that_is_not_here_and_one_without_use(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, tmp_path: Path
) -> None:
    found = calibrated[0]
    with pytest.raises(UsageError, match="no device 'cuda:99' here"):
        kanna.convert(llama, tmp_path / "m.gguf", statistics=found.folder, device="cuda:99")
    with pytest.raises(UsageError, match="needs statistics"):
        kanna.convert(llama, tmp_path / "m.gguf", device="cpu")
    assert not any(tmp_path.iterdir())


def test_statistics_of_another_model_are_refused(
    calibrated: tuple[statistics.Statistics, Any], tmp_path: Path
) -> None:
    tiny_models.make("gemma2", tmp_path / "gemma2")
    with pytest.raises(PlanError, match="of another model"):
        kanna.convert(tmp_path / "gemma2", tmp_path / "m.gguf", statistics=calibrated[0].folder)
    assert not (tmp_path / "m.gguf").exists()


def test_damaged_statistics_are_named(
    calibrated: tuple[statistics.Statistics, Any], llama: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "stats"
    with pytest.raises(PlanError, match="no statistics"):
        kanna.convert(llama, tmp_path / "m.gguf", statistics=folder)
    shutil.copytree(calibrated[0].folder, folder)
    (folder / "layer-00001.safetensors").write_bytes(
        (folder / "layer-00001.safetensors").read_bytes()[:1000]
    )
    with pytest.raises(FormatError, match=r"layer-00001\.safetensors"):
        kanna.convert(llama, tmp_path / "m.gguf", encoding="q4_0", statistics=folder)
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(FormatError, match="version 99"):
        statistics.read(folder)
    del index["sites"]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="damaged"):
        statistics.read(folder)


def tuned(source: Path, folder: Path, change: Any) -> Path:
    """A copy of a Hugging Face model whose weights `change` altered."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def lightly(name: str) -> Any:
    """A merged adapter: one part in a thousand of every matrix of a kind, in low rank."""

    def change(weights: dict[str, Any]) -> None:
        torch.manual_seed(0)
        for key, w in weights.items():
            if name in key:
                delta = torch.randn(w.shape[0], 4) @ torch.randn(4, w.shape[1])
                weights[key] = w + 1e-3 * w.std() * delta / delta.std()

    return change


def norms(weights: dict[str, Any]) -> None:
    for key in weights:
        if "norm" in key:
            weights[key] = weights[key] * 1.05


CHANGES = {
    "a tuned q_proj": lightly("q_proj"),
    "a tuned down_proj": lightly("1.mlp.down_proj"),
    "tuned norms": norms,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_fine_tune_is_another_model(
    what: str, calibrated: Any, llama: Path, tmp_path: Path
) -> None:
    source = tuned(llama, tmp_path / "tuned", CHANGES[what])
    for form in ("f32", "bf16"):
        if what != "tuned norms" and form == "bf16":
            break  # below the rounding of bf16 it is the same model
        kanna.convert(source, tmp_path / "source.gguf", encoding=form, overwrite=True)
        words = [
            "convert",
            str(tmp_path / "source.gguf"),
            "-o",
            str(tmp_path / "m.gguf"),
            "--quiet",
            "--encoding",
        ]
        run = CliRunner().invoke(cli, [*words, "q4_0", "--statistics", str(calibrated[0].folder)])
        assert (
            run.exit_code == 1
            and "of another model: " in run.stderr
            and "sampled values differ" in run.stderr
        )
        assert not (tmp_path / "m.gguf").exists()
        # The way out that the error names.
        run = CliRunner().invoke(
            cli, [*words, "q4_0", "--imatrix", str(calibrated[0].folder / "imatrix.gguf")]
        )
        assert run.exit_code == 0, run.stderr
        (tmp_path / "m.gguf").unlink()


@pytest.mark.parametrize("of", ["f32", "f16", "bf16", "q4_0"])
def test_the_same_model_in_other_forms(
    of: str, calibrated: Any, llama: Path, tmp_path: Path
) -> None:
    """Statistics of each form are good for every other: folder or GGUF, rounded or quantized."""
    known = statistics.read(calibrated[0].folder)
    folder = tmp_path / "folder"
    kanna.convert(llama, folder, format="safetensors", encoding="bf16" if of == "bf16" else "f16")
    kanna.convert(llama, tmp_path / "source.gguf", encoding=of)
    for source in (folder, tmp_path / "source.gguf"):
        known.check(families.load_model(kanna.open_source(source)))
    # And the other way round: of what was rounded, for what was not and for what was rounded
    # otherwise.
    first = families.load_model(kanna.open_source(tmp_path / "source.gguf"))
    from kanna.calibration import fingerprint

    fingerprint.save(tmp_path / "sketch", fingerprint.compute(first))
    kept = fingerprint.load(tmp_path / "sketch")
    for form in ("f32", "f16", "bf16", "q8_0", "q4_0", "q2_k"):
        kanna.convert(llama, tmp_path / "other.gguf", encoding=form, overwrite=True)
        other = families.load_model(kanna.open_source(tmp_path / "other.gguf"))
        assert fingerprint.difference(kept, fingerprint.compute(other)) is None, (of, form)


@pytest.mark.parametrize("form", ["bf16", "q8_0", "q2_k"])
def test_another_seed_is_another_model(form: str, calibrated: Any, tmp_path: Path) -> None:
    tiny_models.make("llama", tmp_path / "other", seed=1)
    kanna.convert(tmp_path / "other", tmp_path / "other.gguf", encoding=form)
    with pytest.raises(PlanError, match="of another model"):
        kanna.convert(tmp_path / "other.gguf", tmp_path / "m.gguf", statistics=calibrated[0].folder)


def test_a_tuned_bf16_model_is_told_from_its_base_in_bf16(llama: Path, tmp_path: Path) -> None:
    """As they are published: both rounded, so that many a value did not move at all."""
    from kanna.calibration import fingerprint

    def rounded(change: Any) -> Any:
        def both(weights: dict[str, Any]) -> None:
            for key in weights:
                weights[key] = weights[key].bfloat16().float()
            change(weights)
            for key in weights:
                weights[key] = weights[key].bfloat16()

        return both

    base = tuned(llama, tmp_path / "base", rounded(lambda w: None))
    kept = fingerprint.compute(families.load_model(kanna.open_source(base)))
    for form in (None, "f32", "f16"):
        other = tuned(llama, tmp_path / f"tuned-{form}", rounded(lightly("q_proj")))
        if form is not None:
            kanna.convert(other, tmp_path / "other.gguf", encoding=form, overwrite=True)
            other = tmp_path / "other.gguf"
        told = fingerprint.difference(
            kept, fingerprint.compute(families.load_model(kanna.open_source(other)))
        )
        assert told is not None and "attn_q" in told, form


def test_a_lost_sketch_is_named(calibrated: Any, llama: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(calibrated[0].folder, tmp_path / "stats")
    (tmp_path / "stats" / "sketch.safetensors").write_bytes(b"short")
    with pytest.raises(FormatError, match=r"sketch\.safetensors"):
        kanna.convert(llama, tmp_path / "m.gguf", statistics=tmp_path / "stats")
