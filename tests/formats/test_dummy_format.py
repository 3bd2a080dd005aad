"""A format of a third party goes through every verb, known by its entry points alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import dummy_format, tiny_models
from helpers.optimizing import quick

from kanna import (
    bench,
    compare,
    components,
    convert,
    evaluate,
    fit,
    formats,
    generate,
    inspect,
    optimize,
    package,
    verify,
)
from kanna.cli.main import cli
from kanna.errors import SourceError, UnsupportedError
from kanna.generation import close
from kanna.packaging import locked

pytest.importorskip("torch")


@pytest.fixture(scope="module", autouse=True)
def dummy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The format, installed for these tests; references of tiny models in a cache of their own."""
    home = tmp_path_factory.mktemp("dummy")
    with dummy_format.installed(home / "site"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KANNA_CACHE", str(home / "cache"))
        yield
        close()


@pytest.fixture(scope="module")
def artefact(llama: Path, dummy: None) -> Path:
    """The tiny llama in 8 bits."""
    out = llama.parent / "tiny-dummy"
    convert(llama, out, preset="dummy:q8", threads=1)
    return out


@pytest.fixture(scope="module")
def other_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text to evaluate on."""
    path = tmp_path_factory.mktemp("other") / "other.txt"
    path.write_text("The plane takes a shaving so thin that light passes through it. " * 150)
    return path


def test_it_is_among_the_components() -> None:
    for kind in ("formats", "runtimes", "engines"):
        [listed] = components(kind, "dummy").kinds
        assert listed.components[0].name == "dummy"
        assert "helpers.dummy_format" in listed.components[0].where
    [presets] = components("presets", "dummy:q8").kinds
    assert presets.components[0].name == "dummy:q8"


def test_fit_sizes_it_to_the_byte(llama: Path, artefact: Path) -> None:
    rows = {row.preset: row for row in fit(llama, format="dummy", memory=1 << 30).rows}
    assert set(rows) == {"dummy:q4", "dummy:q8", "dummy:f16"}
    weights = sum(p.stat().st_size for p in (artefact / "weights").iterdir())
    assert rows["dummy:q8"].file_bytes == weights


def test_convert_writes_it(llama: Path, artefact: Path, tmp_path: Path) -> None:
    planned = convert(llama, tmp_path / "dry", preset="dummy:q4", dry_run=True)
    written = convert(llama, tmp_path / "q4", preset="dummy:q4", threads=1)
    assert planned.tensors == written.tensors
    kinds = {t["encoding"] for t in written.tensors}
    assert "q4_0" in kinds and "q8_0" not in kinds
    assert formats.of(artefact).name == "dummy"


def test_the_command_line_knows_it(llama: Path, tmp_path: Path) -> None:
    words = ["convert", str(llama), "-o", str(tmp_path / "out"), "--preset", "dummy:q4", "--json"]
    ran = CliRunner().invoke(cli, words)
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["preset"] == "dummy:q4"
    ran = CliRunner().invoke(cli, ["fit", str(llama), "--format", "dummy", "--json"])
    assert ran.exit_code == 0, ran.output


def test_inspect_says_what_it_is(artefact: Path) -> None:
    shown = inspect(artefact)
    assert (shown.kind, shown.family, shown.context) == ("Dummy folder", "llama", 1024)
    assert shown.provenance["kanna.plan"] == "dummy:q8"
    assert "--preset q8" in shown.provenance["kanna.command"]
    assert "q8_0" in {row["encoding"] for row in shown.types}


def test_inspect_says_what_it_is_where_nothing_is_read_back(
    artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = dummy_format.without_reader()
    monkeypatch.setattr(formats, "get", lambda name: blind if name == "dummy" else GET(name))
    shown = inspect(artefact)
    assert (shown.name, shown.kind) == (artefact.name, "Dummy folder")
    assert shown.bytes == sum(p.stat().st_size for p in artefact.rglob("*") if p.is_file())
    assert shown.provenance["kanna.plan"] == "dummy:q8"
    assert shown.problems


GET = formats.get


def test_verify_proves_it(llama: Path, artefact: Path) -> None:
    result = verify(llama, artefact, threads=1)
    assert result.status == "proved", result
    assert {"tokenizer", "chat template", "logits, long prompt"} <= {c.name for c in result.checks}


def test_verify_refuses_a_wrong_one(llama: Path, artefact: Path, tmp_path: Path) -> None:
    tiny_models.make("llama", tmp_path / "other", seed=1)
    assert verify(tmp_path / "other", artefact, threads=1).status == "failed"


def test_evaluate_scores_it(llama: Path, artefact: Path, other_text: Path) -> None:
    result = evaluate(artefact, reference=llama, text=other_text, context=64, windows=4, threads=1)
    assert 0 < result.kl_mean < 0.05


def test_bench_measures_it(artefact: Path) -> None:
    [row] = bench([artefact], prompt_tokens=32, gen_tokens=4, repeat=1, threads=1)
    assert row.runtime == "dummy" and row.prompt_tps > 0


def test_generate_runs_it(artefact: Path) -> None:
    assert isinstance("".join(generate(artefact, "Once upon", max_tokens=3)), str)


def test_compare_takes_it_beside_gguf(llama: Path, other_text: Path, tmp_path: Path) -> None:
    result = compare(
        llama,
        presets=["Q8_0"],
        formats=["dummy", "gguf"],
        out=tmp_path / "out",
        text=other_text,
        windows=2,
        repeat=1,
        threads=1,
    )
    rows = {row.name: row for row in result.rows}
    assert {"dummy:f16", "dummy:q8", "dummy:q4", "Q8_0"} <= set(rows)
    assert rows["dummy:f16"].role == "baseline" and rows["dummy:q8"].gate == "proved"
    assert rows["dummy:q8"].kl_mean is not None and rows["dummy:q8"].gen_tps
    assert "dummy:q8" in (tmp_path / "out" / "report.html").read_text()


def test_optimize_searches_it(llama: Path, text: Path, other_text: Path, tmp_path: Path) -> None:
    with quick():
        result = optimize(
            llama,
            tmp_path / "out",
            format="dummy",
            bpw=6.0,
            calibration=[text],
            tokens=1024,
            effort="fast",
            text=other_text,
            windows=2,
            threads=1,
        )
    assert result.gate == "proved" and result.file_bytes <= result.budget
    assert formats.of(result.artefact).name == "dummy"
    assert {"q4_0", "q8_0"} <= {name.partition(":")[0] for name in result.encodings}, result
    assert Path(result.report).name == "report-dummy.html"


def test_package_deploys_it(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cyclonedx")
    (tmp_path / "serve-torch.txt").write_text(locked.requirements("serve"))
    monkeypatch.setattr(locked, "_FOLDER", tmp_path)  # a format brings the lock of its runtime
    result = package(artefact, tmp_path / "out", to=["docker"], context=256)
    assert result.kind == "dummy"
    assert "models/tiny-dummy/dummy.json" in result.files
    bom = json.loads((tmp_path / "out" / "bom.cdx.json").read_text())
    assert "model.safetensors" in json.dumps(bom)
    with pytest.raises(UnsupportedError, match="ollama does not run dummy"):
        package(artefact, tmp_path / "other", to=["ollama"], context=256)


def test_without_its_package_it_is_no_source(artefact: Path) -> None:
    with dummy_format.removed(), pytest.raises(SourceError, match="no weights"):
        inspect(artefact)
