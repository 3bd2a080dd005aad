"""A reference judges nothing before it computes what the source's own library does."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs

import kanna
from kanna._util import transformers_process
from kanna.checks import ReferenceCheck, describe_reference
from kanna.cli.main import cli
from kanna.errors import GateError
from kanna.evaluation import reference_check, source_library
from kanna.evaluation.reference import reference_gguf
from kanna.families import _load
from kanna.hardware.memory import memory
from kanna.model import Model, f32
from kanna.sources import Source, open_source

pytest.importorskip("torch")
pytest.importorskip("transformers")
needs.llama_cpp()

from helpers import tiny_models  # noqa: E402 - needs torch


def _other_rope(parts: dict[str, Any]) -> None:
    parts["metadata"] = parts["metadata"] | {"llama.rope.freq_base": f32(300.0)}


def _swapped(parts: dict[str, Any]) -> None:
    one, other = (f"blk.0.ffn_{name}.weight" for name in ("gate", "up"))
    tensors = parts["tensors"]
    swapped = {one: copy.copy(tensors[other]), other: copy.copy(tensors[one])}
    for name, tensor in swapped.items():
        object.__setattr__(tensor, "name", name)
    parts["tensors"] = tensors | swapped


# What a family could get wrong, in every file that it makes alike.
WRONG: dict[str, Callable[[dict[str, Any]], None]] = {"rope": _other_rope, "swapped": _swapped}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a text, and the model rightly converted."""
    folder = tmp_path_factory.mktemp("reference")
    tiny_models.make("llama", folder / "tiny")
    (folder / "text.txt").write_text(tiny_models.TEXT * 30, encoding="utf-8")
    kanna.convert(folder / "tiny", folder / "right.gguf", encoding="q8_0")
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, home: Path, request: pytest.FixtureRequest) -> None:
    """References of a wrong family must not be those of another test."""
    wrong = getattr(request.node, "callspec", None)
    folder = home / "cache" / str(wrong.params.get("wrong", "") if wrong else "")
    monkeypatch.setattr("kanna.sources.packages.cache_dir", lambda: folder)
    reference_check._checked.cache_clear()


def evaluate(home: Path, out: Path) -> kanna.evaluation.EvaluateResult:
    del out
    return kanna.evaluate(
        home / "right.gguf",
        reference=home / "tiny",
        text=home / "text.txt",
        windows=1,
        threads=1,
    )


def compare(home: Path, out: Path) -> object:
    return kanna.compare(
        home / "tiny", presets=["Q8_0"], out=out, text=home / "text.txt", windows=1, threads=1
    )


def optimize(home: Path, out: Path) -> object:
    return kanna.optimize(
        home / "tiny",
        like="Q8_0",
        out=out,
        calibration=home / "text.txt",
        text=home / "text.txt",
        tokens=512,
        effort="fast",
        threads=1,
    )


@pytest.mark.parametrize("verb", [evaluate, compare, optimize])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_conversion_judges_nothing(
    wrong: str,
    verb: Callable[[Path, Path], object],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistaken(**parts: Any) -> Model:
        WRONG[wrong](parts)
        return Model(**parts)

    monkeypatch.setattr(_load, "Model", mistaken)
    with pytest.raises(GateError, match=r"64 tokens: KL \S+ of at most 0\.002") as refused:
        verb(home, tmp_path / "out")
    assert "transformers 5" in refused.value.found and "bug-report" in (refused.value.todo or "")
    assert not (tmp_path / "out").exists()


def test_a_right_one_is_checked_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(home, home)
    checked = first.reference_check
    assert checked is not None and checked.status == "agrees"
    assert checked.kl is not None and checked.kl < 1e-5 and checked.tokens == 64
    assert "checked against transformers 5" in checked.sentence()
    assert not any("not checked" in note for note in first.notes)
    assert first.to_dict()["reference_check"]["limit"] == 0.002
    # Another process finds the answer in the cache.
    reference_check._checked.cache_clear()
    monkeypatch.setattr(transformers_process, "ask", None)
    assert evaluate(home, home).reference_check == checked


def test_what_is_absent_is_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name == "transformers" else find(name, package),
    )
    words = ["--text", str(home / "text.txt"), "--windows", "1", "--threads", "1"]
    run = CliRunner().invoke(
        cli, ["evaluate", str(home / "right.gguf"), "--reference", str(home / "tiny"), *words]
    )
    sentence = "reference not checked against transformers: transformers is not installed"
    assert run.exit_code == 0 and sentence in " ".join((run.stdout + run.stderr).split())
    out = tmp_path / "out"
    run = CliRunner().invoke(
        cli,
        ["compare", str(home / "tiny"), "--presets", "Q8_0", "-o", str(out), "--json", *words],
    )
    assert run.exit_code == 0, run.stderr
    data = json.loads(run.stdout)
    assert sentence in data["notes"]
    assert data["evaluation"]["reference_check"]["status"] == "not checked"
    gate = {c["name"]: c for c in data["rows"][0]["checks"]}["reference against transformers"]
    assert gate["detail"] == "not checked: transformers is not installed"
    for page in ("report.html", "README.md"):
        assert "not checked against transformers" in (out / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "gguf"}, "the source is a GGUF"),
        ({"merged": ("adapter",)}, "adapters are merged"),
        ({"packed": True}, "packed weights"),
    ],
)
def test_sources_that_the_library_does_not_read(
    change: dict[str, Any], reason: str, home: Path
) -> None:
    source: Source = replace(open_source(home / "tiny"), **change)
    checked = reference_check.require(source, home / "right.gguf", threads=1)
    assert checked.status == "not checked" and reason in checked.reason
    assert checked.notes == [f"reference not checked against transformers: {checked.reason}"]


def test_a_source_beyond_the_memory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(home / "tiny")
    reference = reference_gguf(source)
    little = replace(memory(), available=1 << 20)
    monkeypatch.setattr(reference_check, "memory", lambda: little)
    monkeypatch.setattr("kanna.sources.packages.cache_dir", lambda: home / "little")
    checked = reference_check.check(source, reference, threads=1)
    assert checked.status == "not checked" and "are free" in checked.reason


def test_the_source_itself_needs_no_check(home: Path) -> None:
    own = reference_check.check(open_source(home / "tiny"), home / "tiny")
    assert own.status == "own" and own.sentence().startswith("the reference is the source itself")
    file = open_source(home / "right.gguf")
    assert reference_check.check(file, file.path).library == "llama.cpp"


def test_numbers_by_chance_prove_nothing(home: Path, tmp_path: Path) -> None:
    """A model that lacks weights gets random ones from transformers."""
    import shutil

    from safetensors.numpy import load_file, save_file

    from kanna.evaluation.reference_worker import read

    folder = tmp_path / "holes"
    shutil.copytree(home / "tiny", folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    answer = read(str(folder), [1, 2], str(tmp_path / "logits.npy"), 1)
    assert "finds no weights" in answer["failure"] and "layers.1.mlp.up_proj" in answer["failure"]
    shutil.rmtree(folder)
    assert "does not load" in read(str(folder), [1], str(tmp_path / "x.npy"), 1)["failure"]


def test_reports_of_earlier_versions_say_nothing() -> None:
    assert describe_reference({}) == describe_reference({"reference_check": None}) == ""
    later = ReferenceCheck(status="agrees", library="x 1", kl=1e-7, limit=0.002, tokens=64)
    data = {"reference_check": later.to_dict() | {"key of a later version": 1}}
    assert describe_reference(data) == (
        "reference checked against x 1 on 64 tokens: KL 1e-07 of at most 0.002"
    )


def test_an_old_transformers_reads_another_rope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_library.importlib.metadata, "version", lambda _: "4.57.1")
    assert source_library.reads_otherwise({"rope_theta": 1e4}) == ""
    for config in ({"rope_parameters": {}}, {"text_config": {"rope_parameters": {}}}):
        assert "does not read rope_parameters" in source_library.reads_otherwise(config)
