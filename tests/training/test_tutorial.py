"""docs/tutorials/fine-tune.md: its commands, in its order, on a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import needs, optimizing, tiny_adapters

from kanna.cli.main import cli
from kanna.optimization import measure

needs.package("trl")

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "fine-tune.md"
WORDS = ["fox", "dog", "once", "time", "quick", "brown"]
MORE = {
    "adapt": "--steps 24 --rank 4 --learning-rate 5e-3 --samples 1 --threads 1",
    "merge": "--threads 1",
    "verify": "--threads 1",
    "optimize": "--effort fast --threads 1",
}
"""What makes a command of the page one of seconds."""


def commands() -> list[list[str]]:
    """The page's own commands of kanna, without comments."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "kanna"]


def chat(index: int) -> dict[str, object]:
    word = WORDS[index % len(WORDS)]
    asked = {"role": "user", "content": f"Say {word} {index}"}
    return {"messages": [asked, {"role": "assistant", "content": f"{word} {word} {word}"}]}


def run(words: list[str], home: Path, *, codes: tuple[int, ...] = (0,), **changes: str) -> None:
    words = [changes.get(word, word) for word in words]
    given = [str(home / "source") if word == "SRC" else word for word in words]
    result = CliRunner().invoke(cli, [*given, *shlex.split(MORE[words[0]])])
    assert result.exit_code in codes, (words, result.output)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_adapters.base("llama", tmp_path / "source")
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps(chat(i)) for i in range(80)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_goes_from_chats_to_a_file(home: Path) -> None:
    verbs = [words[0] for words in commands()]
    assert verbs == ["adapt", "optimize", "merge", "optimize", "adapt", "verify"]
    adapt, _, merge, _, _, verify = commands()
    run(adapt, home)
    assert (home / "adapter" / "report.html").is_file()
    run(merge, home, Q4_K_M="Q8_0")
    run(verify, home)


def test_the_page_has_a_draft_model_follow(home: Path) -> None:
    *_, adapt, _ = commands()
    run(adapt, home, SMALL=str(home / "source"))
    assert (home / "with-draft" / "draft-model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_page_optimizes_on_the_same_chats(home: Path) -> None:
    adapt, merged, _, apart, *_ = commands()
    run(adapt, home)
    with optimizing.quick() as patch:
        patch.setattr(measure, "CANDIDATES", ("q2_k", "q4_0", "q4_k", "q6_k", "q8_0", "f16"))
        for optimize, out in ((merged, "out"), (apart, "apart")):
            run(optimize, home, codes=(0, 1))
            page = (home / out / "report.html").read_text()
            assert "What is kept of the fine-tune" in page
    assert (home / "apart" / "adapters" / "adapter.gguf").is_file()
