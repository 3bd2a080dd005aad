"""`kanna verify --adapter --tasks`: what an artefact keeps of what a fine-tune gained on tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import needs, tiny_adapters
from helpers.tiny_adapters import change_config

import kanna
from kanna import tasks
from kanna.cli.main import cli
from kanna.errors import UsageError
from kanna.evaluation.behaviour import compare_behaviour

needs.package("trl")
needs.llama_cpp()

WORDS = ["fox", "dog", "once", "time", "quick", "brown"]
OTHERS = ["over", "upon", "lazy", "jumps"]
"""Words of which nothing is learned."""


def thrice(word: str) -> str:
    return f"{word} {word} {word}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter that learned some answers, that adapter alone, and one without strength.

    The task asks which of four answers is likeliest; one of them is of the kind that was learned.
    """
    folder = tmp_path_factory.mktemp("tasks")
    source = tiny_adapters.base("llama", folder / "source")
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"Say {word} {index}"},
                {"role": "assistant", "content": thrice(word)},
            ]
        }
        for index, word in enumerate(10 * WORDS)
    ]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    kanna.adapt(
        source,
        folder / "chats.jsonl",
        folder / "adapter",
        rank=4,
        learning_rate=5e-3,
        steps=20,
        threads=1,
        verify=False,
    )
    shutil.copytree(folder / "adapter", folder / "idle")
    change_config(folder / "idle", lora_alpha=0.0)
    for name in ("adapter", "idle"):
        kanna.convert(source, folder / f"{name}.gguf", adapter=folder / name, threads=1)
    asked = [
        {
            "question": f"Say {word} {index}",
            "choices": [
                thrice(one) for one in (*OTHERS[: index % 4], word, *OTHERS[index % 4 : 3])
            ],
            "answer": index % 4,
        }
        for index, word in enumerate(4 * WORDS)
    ]
    (folder / "say.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return folder


def task(home: Path) -> str:
    return f"choice:{home / 'say.jsonl'}"


def verify(home: Path, name: str, **more: Any) -> Any:
    options: dict[str, Any] = {"adapter": home / "adapter", "threads": 1, "tasks": task(home)}
    return kanna.verify(home / "source", home / name, **options | more)


def test_what_keeps_every_answer_keeps_the_gain(home: Path) -> None:
    result = verify(home, "adapter.gguf", gate=home / "gate.json")
    assert result.ok, result.tables()
    [kept] = result.tasks
    assert kept["share"] == 1 and kept["interval"] == (1, 1) and not kept["flips"]
    assert kept["examples"] == 24 and kept["solved"] == kept["reference_solved"] == 24
    assert result.checks[-1].name == f"retention of {task(home)}"
    reported = json.loads((home / "gate.json").read_text())["tasks"]
    assert reported[0]["share"] == 1 and "flips" not in reported[0]
    # The base and the file are asked as `evaluate --tasks` asks them.
    kanna.merge(home / "source", home / "adapter", home / "tuned.gguf", preset="F16", threads=1)
    chosen = tasks.choose(task(home))
    [asked] = compare_behaviour([home / "tuned.gguf"], chosen, reference=home / "source", threads=1)
    assert asked.scores[0].reference_solved == kept["base_solved"]
    assert asked.scores[0].solved == kept["solved"]


def test_what_loses_the_answers_fails_and_names_them(home: Path) -> None:
    words = ["verify", str(home / "source"), str(home / "idle.gguf"), "--threads", "1"]
    more = ["--adapter", str(home / "adapter"), "--tasks", task(home)]
    run = CliRunner().invoke(cli, [*words, *more, "--json"])
    assert run.exit_code == 1, run.output
    result = json.loads(run.stdout)
    [kept] = result["tasks"]
    assert kept["solved"] == kept["base_solved"] and abs(kept["share"]) < 1e-6
    assert kept["lost"] == sum(flip["became"] == "wrong" for flip in kept["flips"]) > 8
    check = result["checks"][-1]
    assert check["name"] == f"retention of {task(home)}" and check["ok"] is False
    assert f"{kept['lost']} lost and {kept['won']} won" in check["detail"]
    shown = " ".join(CliRunner().invoke(cli, [*words, *more]).output.split())
    assert "now wrong: Say" in shown and "more flipped, all of them in --json" in shown
    loose = verify(home, "idle.gguf", retention=0.0)
    assert next(c for c in loose.checks if c.name.startswith("retention of")).ok


def test_what_cannot_be_judged_says_why(home: Path) -> None:
    idle = verify(home, "idle.gguf", adapter=home / "idle")
    assert idle.status == "unprovable" and idle.tasks[0]["share"] is None
    assert "the fine-tune gained nothing on it" in idle.checks[-1].detail
    few = verify(home, "adapter.gguf", examples=2)
    assert few.status == "unprovable" and few.tasks[0]["interval"] is None
    assert "too few questions" in few.checks[-1].detail and "--examples" in few.checks[-1].detail


def test_a_task_without_an_adapter_or_of_no_such_name_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="no adapter whose gain") as raised:
        verify(home, "adapter.gguf", adapter=None)
    assert "kanna evaluate" in raised.value.todo
    with pytest.raises(UsageError, match="no task named"):
        verify(home, "adapter.gguf", tasks="sums")
    with pytest.raises(UsageError, match="--examples"):
        verify(home, "adapter.gguf", tasks=(), examples=5)
