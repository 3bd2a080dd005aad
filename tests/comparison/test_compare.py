"""The comparison: its pick from hand-made rows, and all of it on a real tiny model in llama.cpp."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import needs

import kanna
from kanna.cli.main import cli
from kanna.comparison import Row, recommend
from kanna.comparison.artefacts import is_same
from kanna.comparison.context import ComparisonContext
from kanna.comparison.description import command
from kanna.comparison.planning import base_name, plan_row
from kanna.comparison.result_cache import ResultCache
from kanna.conversion import ConversionRequest
from kanna.errors import PlanError, UsageError
from kanna.families import load_model
from kanna.model import string
from kanna.sources import Source, open_source


def row(
    name: str, megabytes: float, kl: float | None, gate: str = "proved", role: str = "candidate"
) -> Row:
    return Row(
        name=name, role=role, file_bytes=int(megabytes * 1e6), kl_mean=kl, gate=gate, top1=0.9
    )


SMALL = [
    row("BF16", 270, 1e-4, role="baseline"),
    row("Q8_0", 145, 0.003),
    row("Q6_K", 112, 0.006),
    row("Q4_K_M", 84, 0.045),
    row("Q3_K_M", 68, 0.20),
    row("Q2_K", 55, 0.8),
]


def test_pick_is_the_knee() -> None:
    pick = recommend(SMALL)
    assert pick["name"] == "Q4_K_M"
    assert "Q3_K_M is 19% smaller" in pick["why"] and "Q6_K is 33% larger" in pick["why"]
    assert "0.0025 nats" in pick["rule"]


def test_pick_does_not_depend_on_what_else_was_compared() -> None:
    for absent in ("Q8_0", "Q2_K", "Q3_K_M"):
        assert recommend([r for r in SMALL if r.name != absent])["name"] == "Q4_K_M"


def test_failed_and_unmeasured_artefacts_are_not_picked() -> None:
    assert (
        recommend([row("Q8_0", 145, 0.003), row("Q4_K_M", 84, 0.04, gate="failed")])["name"]
        == "Q8_0"
    )
    assert recommend([row("Q8_0", 145, None)])["name"] == ""
    assert recommend([])["name"] == ""
    unproved = recommend([row("Q8_0", 145, 0.003, gate="unprovable")])
    assert unproved["name"] == "Q8_0" and "could not be run here" in unproved["why"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("builtin:smollm2-135m", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M"),
        ("/models/My Model/", "My-Model"),
        ("x/gemma-3-270m.Q4_K_M.gguf", "gemma-3-270m"),
        ("Phi-4-BF16-00001-of-00002.gguf", "Phi-4"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "qwen2.5-0.5b-instruct"),
    ],
)
def test_names_of_artefacts(given: str, wanted: str, tmp_path: Path) -> None:
    assert (
        base_name(Source(kind="gguf", path=tmp_path, name="n", given=given, tensors={})) == wanted
    )


def test_command_repeats_the_comparison() -> None:
    said = command("a model", ["Q8_0"], Path("out"), text="t.txt", windows=4, imatrix=None)
    assert said == "kanna compare 'a model' --presets Q8_0 -o out --text t.txt --windows 4"


def test_unknown_preset_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="Q4_K_N"):
        kanna.compare("nowhere", presets=["Q4_K_N"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_kept_results_count_only_for_the_same_things(tmp_path: Path) -> None:
    artefact = tmp_path / "a.gguf"
    artefact.write_bytes(b"one")
    kept = ResultCache(tmp_path, {"w": "1"}, "llama 1")
    kept.put(str(artefact), "quality", {"kl": 0.5}, "text", 4)
    assert ResultCache(tmp_path, {"w": "1"}, "llama 1").get(
        str(artefact), "quality", "text", 4
    ) == {"kl": 0.5}
    assert (
        ResultCache(tmp_path, {"w": "1"}, "llama 1").get(str(artefact), "quality", "text", 8)
        is None
    )
    assert (
        ResultCache(tmp_path, {"w": "2"}, "llama 1").get(str(artefact), "quality", "text", 4)
        is None
    )
    assert (
        ResultCache(tmp_path, {"w": "1"}, "llama 2").get(str(artefact), "quality", "text", 4)
        is None
    )
    artefact.write_bytes(b"another")
    assert (
        ResultCache(tmp_path, {"w": "1"}, "llama 1").get(str(artefact), "quality", "text", 4)
        is None
    )
    (tmp_path / ".kanna-compare.json").write_text("{broken")
    assert (
        ResultCache(tmp_path, {"w": "1"}, "llama 1").get(str(artefact), "quality", "text", 4)
        is None
    )


@pytest.mark.parametrize("text", ["absent.txt", "latin.txt"])
def test_unreadable_text_is_refused_before_anything_is_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    command = ["compare", "builtin:smollm2-135m", "--presets", "Q8_0", "-o", str(tmp_path / "out")]
    run = CliRunner().invoke(cli, [*command, "--text", str(tmp_path / text)])
    assert run.exit_code == 2 and text in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A tiny model, the folder of its comparison, and what `--json` printed."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    needs.llama_cpp()
    from helpers import tiny_models

    home = tmp_path_factory.mktemp("compare")
    tiny_models.make("llama", home / "tiny")
    (home / "text.txt").write_text(tiny_models.TEXT * 60, encoding="utf-8")
    run = invoke(home)
    assert run.exit_code == 0, run.stderr
    return home / "tiny", home / "out", json.loads(run.stdout)


def invoke(home: Path) -> Result:
    words = [
        "compare",
        str(home / "tiny"),
        "--presets",
        "Q8_0,Q4_K_M,Q2_K",
        "-o",
        str(home / "out"),
        "--text",
        str(home / "text.txt"),
        "--windows",
        "3",
        "--repeat",
        "1",
        "--threads",
        "1",
        "--json",
        "--quiet",
    ]
    # References of tiny models must not fill the user's cache.
    return CliRunner().invoke(cli, words, env={"KANNA_CACHE": str(home / "cache")})


def test_rows_are_measured(compared: tuple[Path, Path, dict[str, Any]]) -> None:
    rows = compared[2]["rows"]
    assert [r["name"] for r in rows] == ["F16", "floor", "Q8_0", "Q4_K_M", "Q2_K"]
    made = [r for r in rows if r["role"] != "floor"]
    sizes = [r["file_bytes"] for r in made]
    assert sizes == sorted(sizes, reverse=True)
    divergences = [r["kl_mean"] for r in made]
    assert divergences == sorted(divergences) and all(math.isfinite(k) for k in divergences)
    assert all(r["gate"] == "proved" for r in made), [(r["name"], r["checks"]) for r in made]
    assert all(r["gen_tps"] > 0 and r["peak_bytes"] > 0 for r in made)
    assert made[0]["speedup"] == 1 and made[0]["less_memory"] == 0
    assert all(len(r["tensors"]) == len(made[0]["tensors"]) for r in made)


def test_files_are_there(compared: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, data = compared
    names = {p.name for p in out.iterdir()}
    assert {
        "report.html",
        "report.json",
        "README.md",
        "tiny-Q4_K_M.gguf",
        "tiny-Q4_K_M.md",
    } <= names
    assert json.loads((out / "report.json").read_text()) == data
    assert data["recommended"]["name"] in (out / "README.md").read_text()
    assert "kanna compare" in (out / "report.html").read_text()
    checked = data["evaluation"]["reference_check"]
    assert checked["status"] == "agrees" and checked["kl"] < 1e-5
    for name in ("report.html", "README.md"):
        assert "checked against transformers" in (out / name).read_text()


def test_second_run_keeps_what_is_there(compared: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, _ = compared
    artefacts = sorted(out.glob("*.gguf"))
    before = [p.stat().st_mtime_ns for p in artefacts]
    (out / "tiny-Q2_K.gguf").write_bytes(b"GGUF, but broken")
    run = invoke(out.parent)
    assert run.exit_code == 0, run.stderr
    after = [p.stat().st_mtime_ns for p in artefacts]
    changed = [p.name for p, a, b in zip(artefacts, before, after, strict=True) if a != b]
    assert changed == ["tiny-Q2_K.gguf"]
    assert [r["reused"] for r in json.loads(run.stdout)["rows"]] == [True, False, True, True, False]


def test_changed_chat_template_makes_the_artefact_again(
    compared: tuple[Path, Path, dict[str, Any]],
) -> None:
    folder, out, _ = compared
    source = open_source(folder)
    model, path = load_model(source), out / "tiny-Q8_0.gguf"
    cache = ResultCache(out, source.hashes(), "")
    context = ComparisonContext(source=source, model=model, cache=cache)
    request = ConversionRequest(preset="Q8_0")
    row = plan_row(source, path, request=request, name="Q8_0", role="candidate")
    assert is_same(path, row, request, context)
    model.metadata["tokenizer.chat_template"] = string("another")
    assert not is_same(path, row, request, context)


def test_table_for_people(
    compared: tuple[Path, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanna.cli.commands import compare as compare_command
    from kanna.cli.ui import console

    monkeypatch.setenv("COLUMNS", "200")
    screen = console()
    with screen.capture() as seen:
        compare_command._draw(screen, compared[2])
    assert "Q4_K_M" in seen.get() and "report.html" in seen.get() and "Recommended" in seen.get()


def test_presets_are_named_by_format() -> None:
    from kanna.comparison.formats import choices

    assert [c.name for c in choices(["gguf"], ["q8_0", "Q4_K_M"])] == ["Q8_0", "Q4_K_M"]
    both = choices(["gguf", "onnx"], ["Q8_0"])
    assert both[0].name == "Q8_0" and {c.format for c in both[1:]} == {"onnx"}
    assert not any(c.named for c in both[1:])
    named = choices(["gguf"], ["Q8_0", "onnx:int4"])
    assert [(c.format, c.name, c.named) for c in named][1] == ("onnx", "onnx:int4", True)
    assert str(named[1].path(Path("out"), "Qwen2.5")) == "out/Qwen2.5-onnx-int4"
    assert str(named[0].path(Path("out"), "Qwen2.5")) == "out/Qwen2.5-Q8_0.gguf"
    with pytest.raises(UsageError, match="no format 'tflite'"):
        choices(["gguf", "tflite"], None)
    with pytest.raises(PlanError):
        choices(["gguf"], ["Q4_K_N"])


def test_artefacts_of_two_formats_are_paired_by_bytes() -> None:
    from dataclasses import replace

    from kanna.comparison.pairs import pairs

    def onnx(name: str, megabytes: float) -> Row:
        return replace(row(name, megabytes, 0.01), format="onnx")

    found = pairs(
        [*SMALL, onnx("onnx:a", 86), onnx("onnx:b", 140), onnx("onnx:c", 82), onnx("onnx:d", 30)]
    )
    assert [p["names"] for p in found] == [
        ["Q8_0", "onnx:b"],
        ["Q4_K_M", "onnx:a"],
        ["Q3_K_M", "onnx:c"],
    ]
    assert found[1]["larger"] == pytest.approx(86 / 84 - 1)
    assert pairs(SMALL) == []


def test_across_formats_memory_and_speed_count() -> None:
    from dataclasses import replace

    def measured(name: str, format: str, megabytes: float, speed: float, memory: float) -> Row:
        return replace(
            row(name, megabytes, 0.02), format=format, gen_tps=speed, peak_bytes=int(memory * 1e6)
        )

    slow, fast = measured("Q4_K_M", "gguf", 80, 20, 200), measured("onnx:int4", "onnx", 84, 40, 200)
    pick = recommend([slow, fast])
    assert pick["name"] == "onnx:int4" and "peak memory" in pick["rule"]
    assert recommend([slow, replace(fast, peak_bytes=900_000_000)])["name"] == "Q4_K_M"
    # In one format the runtime is the same, and noise of a measurement decides nothing.
    assert recommend([slow, replace(fast, format="gguf")])["name"] == "Q4_K_M"


def four_formats(home: Path, text: Path) -> list[str]:
    """The command that compares a tiny model in four formats."""
    return [
        "compare",
        str(home / "tiny"),
        "--presets",
        "F16,onnx:fp32,mlx:q8,openvino:f32",
        "--formats",
        "gguf,onnx,mlx,openvino",
        "-o",
        str(home / "out"),
        "--text",
        str(text),
        "--windows",
        "2",
        "--repeat",
        "1",
        "--threads",
        "1",
        "--json",
        "--quiet",
    ]


def test_four_formats_in_one_report(
    compared: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_genai")
    pytest.importorskip("mlx_lm")
    pytest.importorskip("openvino_tokenizers")
    folder = compared[0]
    from helpers import tiny_models

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            tiny_models.SMALL, "intermediate_size", 640
        )  # as many rows as the vocabulary are refused
        tiny_models.make("llama", tmp_path / "tiny")
    others = ["onnx:fp32", "mlx:q8", "openvino:f32"]
    words = four_formats(tmp_path, text=folder.parent / "text.txt")
    for turn in range(2):
        run = CliRunner().invoke(cli, words, env={"KANNA_CACHE": str(folder.parent / "cache")})
        assert run.exit_code == 0, run.stderr
        data = json.loads(run.stdout)
        rows = {r["name"]: r for r in data["rows"]}
        assert list(rows) == ["F16", *others]
        for one in others:
            whole = sum(p.stat().st_size for p in Path(rows[one]["path"]).rglob("*") if p.is_file())
            assert rows[one]["file_bytes"] == whole
        assert all(
            r["gate"] == "proved" and r["gen_tps"] > 0 and r["peak_bytes"] > 0
            for r in rows.values()
        )
        assert rows["onnx:fp32"]["kl_mean"] < 1e-8 > rows["openvino:f32"]["kl_mean"]
        assert 0 < rows["mlx:q8"]["kl_mean"] < 0.01
        assert all(rows[name]["reused"] == (turn == 1) for name in others)
        assert "transformers" in data["evaluation"]["reference"]
        if sys.platform != "darwin":
            assert any(
                "judged by its values" in n and n.endswith("tiny-mlx-q8") for n in data["notes"]
            )
        assert "onnxruntime" in data["environment"]["ONNX"]
        assert "mlx-lm" in data["environment"]["MLX"]
        assert "openvino" in data["environment"]["OpenVINO"]
        assert data["recommended"]["name"] in others
    page = (tmp_path / "out" / "report.html").read_text()
    for said in (
        "GGUF</text>",
        "ONNX</text>",
        "MLX</text>",
        "OpenVINO</text>",
        "tokens/s (yellow is faster)",
        "peak memory",
    ):
        assert page.count(said) >= 2, "once wide, once narrow"
    assert page.count("★") >= 2 and (tmp_path / "out" / "tiny-onnx-fp32.md").is_file()


def test_a_format_that_cannot_hold_the_model_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from helpers import tiny_models

    tiny_models.make("gemma2", tmp_path / "tiny")
    from kanna.comparison.formats import choices
    from kanna.comparison.planning import plan_rows

    chosen = choices(["gguf", "onnx"], ["Q8_0"])
    planned = plan_rows(open_source(tmp_path / "tiny"), chosen, tmp_path / "out", None)
    assert [r.name for r in planned.rows] == ["F16", "Q8_0"]
    assert planned.notes and all("left out" in n for n in planned.notes)
