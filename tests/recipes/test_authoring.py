"""Recipes that are written by kanna, and the schema."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import kanna
from kanna.recipes import verbs

Write = Callable[..., Path]
SCHEMA = Path(__file__).parents[2] / "docs" / "recipe.schema.json"


def test_the_published_schema_is_that_of_the_code() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == kanna.recipe("schema").text, (
        "python tools/components.py"
    )


def test_the_schema_knows_right_from_wrong() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checker: Any = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    checker.check_schema(checker.schema)

    def errors(step: dict[str, Any]) -> int:
        return len(list(checker.iter_errors({"steps": {"a": step}})))

    good = {"verb": "convert", "with": {"source": "${model}", "threads": "${n}", "verify": True}}
    assert not errors(good)
    assert not errors({**good, "for": {"preset": ["Q8_0"]}, "when": "1 < 2"})
    assert errors({"verb": "convrt"})
    assert errors({"verb": "convert"})
    assert errors({"verb": "convert", "with": {"source": "x", "presett": "Q8_0"}})
    assert errors({"verb": "convert", "with": {"source": "x", "threads": "many"}})
    described = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]["with-convert"]
    assert "What is converted" in described["properties"]["source"]["description"]
    assert set(json.loads(SCHEMA.read_text())["$defs"]) >= {f"with-{n}" for n in verbs.names()}


def test_the_recipe_of_a_run_makes_the_same(write: Write, tmp_path: Path) -> None:
    write(
        "variables: {preset: Q8_0}\nsteps:\n  small:\n    verb: convert\n"
        "    with: {source: tiny.gguf, preset: '${preset}'}\n",
        "part.yaml",
    )
    path = write(
        "include: [part.yaml]\nsteps:\n  about: {verb: inspect, with: {source: '${small}'}}\n"
        "outputs: {file: '${small}'}\n"
    )
    first = kanna.run(path, tmp_path / "out", set={"preset": "Q4_0"})
    again = kanna.recipe("from", tmp_path / "out", tmp_path / "again.yaml")
    second = kanna.run(tmp_path / "again.yaml", tmp_path / "out2")
    one, two = (Path(r.outputs["file"][0]) for r in (first, second))
    assert one.read_bytes() == two.read_bytes()
    assert again.left_out and str(tmp_path) in again.left_out[0]
    with pytest.raises(kanna.KannaError, match="exists"):
        kanna.recipe("from", tmp_path / "out", tmp_path / "again.yaml")


def test_the_recipe_of_an_artefact_has_its_bytes(write: Write, tmp_path: Path) -> None:
    made = kanna.convert(
        tmp_path / "tiny.gguf", tmp_path / "own.gguf", preset="Q4_K_M", method="nearest"
    ).paths[0]
    text = kanna.recipe("from", made).text
    assert "SHA-256 of the source" in text
    result = kanna.run(write(text), tmp_path / "out")
    assert Path(result.outputs["artefact"][0]).read_bytes() == made.read_bytes()


def test_the_recipe_of_a_report_has_its_command(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    command = (
        "kanna optimize tiny.gguf -o out --bpw 4.5 --effort max --keep a --keep b "
        "--exclude q2_k,q3_k --rule ffn_down=q6_k --tokens 2048 --windows 3"
    )
    (folder / "report.json").write_text(json.dumps({"command": command}))
    step = yaml.safe_load(kanna.recipe("from", folder).text)["steps"]["made"]
    assert step["verb"] == "optimize"
    assert step["with"] == {
        "source": "${source}",
        "bpw": 4.5,
        "effort": "max",
        "keep": ["a", "b"],
        "exclude": "q2_k,q3_k",
        "rules": "ffn_down=q6_k",
        "tokens": 2048,
        "windows": 3,
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ({}, "does not say"),
        ({"report.json": "{"}, "cannot be read"),
        ({"report.json": '{"command": "rm -rf /"}'}, "was made by"),
        ({"report.json": '{"command": "kanna \'"}'}, "was made by"),
    ],
)
def test_what_does_not_say_how_it_was_made(
    content: dict[str, str] | None, words: str, write: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(kanna.KannaError, match=words):
        kanna.recipe("from", folder)


OLIVE = {
    "input_model": {"type": "HfModel", "model_path": "org/model", "task": "text-generation"},
    "systems": {"local": {"type": "LocalSystem"}},
    "evaluators": {
        "common": {
            "metrics": [
                {"name": "latency", "type": "latency"},
                {"name": "acc", "type": "accuracy"},
                {"name": "own", "type": "custom"},
            ]
        }
    },
    "passes": {
        "quantize": {"type": "GptqQuantizer", "bits": 4, "data_config": "wiki"},
        "build": {"type": "ModelBuilder", "precision": ["int4", "int8", "int3"]},
        "tune": {"type": "LoRA", "r": 64},
        "npu": {"type": "QNNConversion"},
        "peephole": {"type": "OnnxPeepholeOptimizer"},
    },
    "search_strategy": False,
    "output_dir": "models",
}


def test_an_olive_config_becomes_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "olive.json"
    path.write_text(json.dumps(OLIVE, indent=2))
    written = kanna.recipe("convert", path)
    recipe = yaml.safe_load(written.text)
    assert recipe["variables"] == {"model": "org/model", "data": "./data"}
    steps = recipe["steps"]
    assert steps["model_folder"]["for"] == {"preset": ["onnx:int4", "onnx:w8"]}
    assert steps["model_folder"]["with"]["method"] == "gptq"
    assert list(steps) == ["statistics", "trained", "merged", "model_folder", "bench", "evaluate"]
    assert steps["trained"]["with"] == {
        "source": "${model}",
        "data": "${data}",
        "method": "lora",
        "rank": 64,
    }
    assert steps["model_folder"]["with"]["source"] == "${merged}"
    left = "\n".join(written.left_out)
    for words in ("int3", "LoRA", "QNNConversion", "custom", "output_dir", "systems", "data"):
        assert words in left, words
    assert "Peephole" not in left
    target = tmp_path / "recipe.yaml"
    target.write_text(written.text)
    (tmp_path / "data").mkdir()
    planned = kanna.run(target, tmp_path / "out", dry_run=True, offline=True).planned
    assert len(planned) == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [("{}", "no config"), ('{"passes": {}}', "names no model"), ("[1", "no YAML")],
)
def test_what_is_no_olive_config(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "olive.json"
    path.write_text(text)
    with pytest.raises(kanna.KannaError, match=words):
        kanna.recipe("convert", path)


@pytest.mark.parametrize(
    "given", [("make",), ("from",), ("convert",), ("schema", "out")], ids=" ".join
)
def test_actions_that_are_none(given: tuple[str, ...]) -> None:
    with pytest.raises(kanna.KannaError) as caught:
        kanna.recipe(*given)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", verbs.names())
def test_every_option_that_names_a_file_is_an_input(name: str) -> None:
    """Else a file that changes would not make its step run again."""
    parameters = inspect.signature(getattr(kanna, name)).parameters
    files = {p.name for p in parameters.values() if re.search(r"Path|Weights", str(p.annotation))}
    verb = verbs.get(name)
    assert files - {"out"} - verb.own == set(verb.inputs)
    assert verb.own <= set(parameters)
