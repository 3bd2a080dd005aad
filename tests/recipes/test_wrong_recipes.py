"""What is wrong with a recipe is said with its line before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import kanna
from kanna.recipes import RecipeError

Write = Callable[..., Path]

STEP = "steps:\n  small:\n    verb: convert\n    with:\n      source: tiny.gguf\n"
WRONG = {
    "no YAML": ("steps: [a\n", 2, "no YAML"),
    "a list": ("- steps\n", 1, "no recipe"),
    "nothing": ("", 1, "no recipe"),
    "no steps": ("name: x\n", 1, "no steps"),
    "an unknown key": (f"stepps: {{}}\n{STEP}", 1, "did you mean steps?"),
    "an unknown key of a step": (f"{STEP}    wen: true\n", 6, "did you mean when?"),
    "no verb": ("steps:\n  a:\n    with: {}\n", 2, "verb is missing"),
    "an unknown verb": ("steps:\n  a:\n    verb: convrt\n", 3, "did you mean convert?"),
    "a verb that is no step": ("steps:\n  a:\n    verb: serve\n", 3, "no verb serve"),
    "an unknown option": (f"{STEP}      presett: Q4_K_M\n", 6, "did you mean preset?"),
    "an option of the run": (f"{STEP}      out: x.gguf\n", 6, "unknown name out"),
    "a missing option": ("steps:\n  a:\n    verb: convert\n", 2, "source is missing"),
    "a number for a text": (f"{STEP}      preset: 4\n", 6, "preset: 4"),
    "a text for a number": (f"{STEP}      threads: many\n", 6, "'many'"),
    "a flag that is a text": (f"{STEP}      verify: 'yes'\n", 6, "'yes'"),
    "a truth for a number": (f"{STEP}      threads: true\n", 6, "threads: True"),
    "an unknown preset": (f"{STEP}      preset: Q4_K_X\n", 4, "Q4_K_X"),
    "a missing model": (STEP.replace("tiny", "away"), 5, "there is no"),
    "a missing file": (f"{STEP}      imatrix: away.gguf\n", 6, "there is no"),
    "an unknown variable": (
        f"{STEP}      preset: ${{sise}}\nvariables: {{size: Q8_0}}\n",
        6,
        "size",
    ),
    "no name in a reference": (f"{STEP}      preset: ${{a b}}\n", 6, "a b"),
    "a step where a value goes": (
        f"{STEP}  b:\n    verb: convert\n    with: {{source: tiny.gguf, preset: '${{small}}'}}\n",
        8,
        "option preset takes a value, small.artefact is of the kind model",
    ),
    "a model where statistics go": (
        f"{STEP}  b:\n    verb: convert\n"
        "    with:\n      source: tiny.gguf\n      statistics: ${small}\n",
        10,
        "option statistics takes statistics, small.artefact is of the kind model",
    ),
    "a file for an option that there is not": (
        f"{STEP}  b:\n    verb: inspect\n"
        "    with: {source: tiny.gguf, statistic: '${small}'}\n",
        8,
        "unknown name statistic",
    ),
    "an output that there is not": (
        f"{STEP}  b:\n    verb: inspect\n    with:\n      source: ${{small.artifact}}\n",
        9,
        "did you mean artefact?",
    ),
    "an output of a step that makes nothing": (
        "steps:\n  a:\n    verb: inspect\n    with: {source: tiny.gguf}\n"
        "  b:\n    verb: inspect\n    with: {source: '${a}'}\n",
        7,
        "makes no file",
    ),
    "a step within a text": (
        f"{STEP}  b:\n    verb: inspect\n    with:\n      source: x/${{small}}\n",
        9,
        "within a text",
    ),
    "all of a matrix where one goes": (
        f"{STEP}    for: {{preset: [Q8_0]}}\n"
        "  b:\n    verb: inspect\n    with:\n      source: ${small.*}\n",
        10,
        "source",
    ),
    "a circle": (
        "steps:\n  a:\n    verb: convert\n    with: {source: '${b}'}\n"
        "  b:\n    verb: convert\n    with: {source: '${a}'}\n",
        2,
        "wait for each other",
    ),
    "a step that takes itself": (
        "steps:\n  a:\n    verb: convert\n    with: {source: '${a}'}\n",
        2,
        "wait for each other",
    ),
    "a condition on itself": (f"{STEP}    when: small.file_bytes < 5\n", 6, "precedes"),
    "a condition of another step that there is not": (
        f"{STEP}    when: smal.file_bytes < 5\n",
        6,
        "did you mean small?",
    ),
    "an unknown figure": (f"{STEP}    stop_when: small.file_byte < 5\n", 6, "file_bytes?"),
    "a condition that is a program": (f"{STEP}    when: __import__('os')\n", 6, "nothing that"),
    "a condition that is none": (f"{STEP}    when: 5 <\n", 6, "cannot be read"),
    "no values of an axis": (f"{STEP}    for: {{preset: []}}\n", 6, "no list of values"),
    "an axis of an unknown variable": (
        f"{STEP}    for: {{preset: '${{all}}'}}\n",
        6,
        "no variable",
    ),
    "two axes of a name": (
        f"{STEP}    for: {{preset: [Q8_0]}}\n  b:\n    verb: inspect\n"
        "    for: {preset: [F16]}\n    with: {source: '${small}'}\n",
        9,
        "two axes are called preset",
    ),
    "a matrix of too much": (
        f"{STEP}    for:\n      a: [{', '.join(map(str, range(40)))}]\n"
        f"      b: [{', '.join(map(str, range(40)))}]\n",
        6,
        "more than 1000",
    ),
    "a step called as a variable": (f"{STEP}variables: {{small: 1}}\n", 2, "variable, too"),
    "an output of nothing": (f"{STEP}outputs: {{file: '${{smal}}'}}\n", 6, "no output"),
    "a missing include": (f"{STEP}include: [away.yaml]\n", 6, "there is no file"),
    "a file that includes itself": (f"{STEP}include: [recipe.yaml]\n", 6, "include each other"),
    "a key twice": (f"{STEP}steps: {{}}\n", 6, "here twice, first in line 1"),
    "an object of Python": ("steps: !!python/name:os.system\n", 1, "tag"),
    "variables in a circle": (
        f"variables:\n  a: x${{b}}\n  b: ${{a}}\n{STEP}",
        2,
        "refer to each other",
    ),
    "a variable of a variable that there is not": (
        f"variables:\n  size: Q8_0\n  a: ${{sise}}\n{STEP}",
        3,
        "did you mean size?",
    ),
    "a list within a text": (
        f"variables:\n  many: [a, b]\n  a: x${{many}}\n{STEP}",
        3,
        "within a text",
    ),
    "a name that no file has": (STEP.replace("tiny", "x" * 5000), 5, "there is no"),
    "a name with a zero in it": (STEP.replace("tiny.gguf", '"a\\0b"'), 5, "there is no"),
    "a number without end": (f"{STEP}      threads: {'9' * 400}\n", 6, "400 digits"),
    "levels without end": (f"steps: {'[' * 50}{']' * 50}\n", 1, "too much"),
    "a budget that is none": (
        "steps:\n  a:\n    verb: optimize\n    with: {source: tiny.gguf}\n",
        4,
        "no budget",
    ),
    "two budgets": (
        "steps:\n  a:\n    verb: optimize\n    with: {source: tiny.gguf, size: 1MB, bpw: 4}\n",
        4,
        "together",
    ),
    "shapes that are none": (
        "steps:\n  a:\n    verb: optimize\n"
        "    with: {source: tiny.gguf, format: onnx, size: 1MB, static: 64x100}\n",
        4,
        "chunks of 64 tokens in a context of 100",
    ),
    "an NPU without shapes": (
        "steps:\n  a:\n    verb: optimize\n"
        "    with: {source: tiny.gguf, format: onnx, size: 1MB, provider: qnn}\n",
        4,
        "compiles graphs of fixed shapes alone",
    ),
    "an unknown target": (
        "steps:\n  a:\n    verb: package\n    with: {artefact: tiny.gguf, to: moon}\n",
        4,
        "moon",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_refused_with_its_line(name: str, write: Write, tmp_path: Path) -> None:
    text, line, words = WRONG[name]
    path = write(text)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RecipeError) as caught:
        kanna.run(path, tmp_path / "out")
    problem = caught.value.problems[0]
    assert words in problem.text, problem.text
    assert (problem.place.file, problem.place.line) == (path, line), str(problem)
    assert f"recipe.yaml:{line}: " in caught.value.found
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.iterdir()) == before


def test_all_problems_are_named_at_once(write: Write, tmp_path: Path) -> None:
    path = write(f"{STEP}      threads: many\n      preset: 4\n  b:\n    verb: inspect\n")
    with pytest.raises(RecipeError) as caught:
        kanna.run(path, tmp_path / "out")
    assert [problem.place.line for problem in caught.value.problems] == [6, 7, 8]


def test_an_alias_that_repeats_itself_is_refused(write: Write, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(RecipeError, match="too much"):
        kanna.run(write("\n".join(lines)), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe", "UTF-8"), (b"# " + b"x" * (1 << 20), "at most"), (None, "does not exist")],
)
def test_a_file_that_cannot_be_a_recipe(
    content: bytes | None, words: str, write: Write, tmp_path: Path
) -> None:
    path = write("")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(kanna.KannaError, match=words):
        kanna.run(path, tmp_path / "out")


def test_variables_that_there_are_not_cannot_be_set(write: Write) -> None:
    path = write(f"variables: {{size: Q8_0}}\n{STEP}")
    with pytest.raises(kanna.KannaError, match="did you mean size"):
        kanna.run(path, set=["sise=Q4_0"])
    with pytest.raises(kanna.KannaError, match="sets nothing"):
        kanna.run(path, set=["size"])


def test_a_folder_with_other_files_is_left_alone(write: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(kanna.KannaError, match="no folder of a run"):
        kanna.run(write(STEP), tmp_path / "out")
    with pytest.raises(kanna.KannaError, match="is a file"):
        kanna.run(write(STEP), tmp_path / "other.txt")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
