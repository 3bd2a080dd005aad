"""`kanna verify --adapter`: what an artefact keeps of a fine-tune's gain, in its runtime."""

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
from kanna.cli.main import cli
from kanna.errors import KannaError, SourceError, UsageError

needs.package("trl")
needs.llama_cpp()

WORDS = ["fox", "dog", "once", "time", "quick", "brown"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an adapter that learned something, and artefacts of both."""
    folder = tmp_path_factory.mktemp("retention")
    source, adapter = tiny_adapters.base("llama", folder / "source"), folder / "adapter"
    lines: list[str] = []
    for index in range(60):
        word = WORDS[index % len(WORDS)]
        question = {"role": "user", "content": f"Say {word} {index}"}
        answer = {"role": "assistant", "content": f"{word} {word} {word}"}
        lines.append(json.dumps({"messages": [question, answer]}))
    (folder / "chats.jsonl").write_text("\n".join(lines))
    trained = kanna.adapt(
        source, folder / "chats.jsonl", adapter, rank=4, learning_rate=5e-3, steps=20, threads=1
    )
    assert trained.ok and trained.gate["status"] == "proved"
    kanna.merge(source, adapter, folder / "tuned.gguf", preset="Q8_0", threads=1)
    kanna.convert(source, folder / "lora.gguf", adapter=adapter, threads=1)
    shutil.copytree(adapter, folder / "weak")
    change_config(folder / "weak", lora_alpha=2.0)  # it was 8
    kanna.convert(source, folder / "weak.gguf", adapter=folder / "weak", threads=1)
    return folder


def verify(home: Path, name: str, **more: Any) -> Any:
    options: dict[str, Any] = {"adapter": home / "adapter", "threads": 1, **more}
    return kanna.verify(home / "source", home / name, **options)


def test_a_merged_file_without_its_adapter_says_what_was_not_named(home: Path) -> None:
    result = kanna.verify(home / "source", home / "tuned.gguf", threads=1)
    assert result.status == "failed"
    assert [c.name for c in result.checks if c.ok is False] == ["tensor values", "adapter"]
    assert "kanna merge" in result.checks[-1].detail and "--adapter" in result.checks[-1].detail


def test_a_merged_artefact_keeps_what_was_gained(home: Path) -> None:
    result = verify(home, "tuned.gguf")
    assert result.ok, result.tables()
    kept = result.retention
    assert kept.share > 0.97 and kept.interval[0] <= kept.share <= kept.interval[1]
    assert kept.examples == 6 and kept.tokens > kept.examples
    report = json.loads((home / "adapter" / "report.json").read_text())
    assert kept.base_loss == pytest.approx(report["base_loss"], rel=1e-3)
    assert kept.tuned_loss == pytest.approx(report["tuned_loss"], rel=1e-3)
    assert {"logits, short prompt", "retention"} <= {c.name for c in result.checks}


def test_an_adapter_alone_is_the_merged_model(home: Path) -> None:
    result = verify(home, "lora.gguf")
    assert result.ok and result.retention.share == pytest.approx(1.0, abs=1e-3)
    assert result.retention.kl < 1e-5


def test_a_wrong_strength_fails(home: Path) -> None:
    result = verify(home, "weak.gguf")
    assert result.status == "failed"
    assert {c.name for c in result.checks if c.ok is False} == {
        "retention",
        "strength of the adapter",
    }
    loose = verify(home, "weak.gguf", retention=0.0)
    assert [c.name for c in loose.checks if c.ok is False] == ["strength of the adapter"]


def test_the_base_itself_is_not_the_tuned_model(home: Path) -> None:
    kanna.convert(home / "source", home / "base.gguf", preset="Q8_0", threads=1)
    result = verify(home, "base.gguf")
    assert result.status == "failed" and result.retention is None


def test_what_gained_nothing_cannot_be_judged(home: Path, tmp_path: Path) -> None:
    idle = tmp_path / "idle"
    shutil.copytree(home / "adapter", idle)
    change_config(idle, lora_alpha=0.0)
    kanna.convert(home / "source", tmp_path / "idle.gguf", adapter=idle, threads=1)
    result = kanna.verify(home / "source", tmp_path / "idle.gguf", adapter=idle, threads=1)
    assert result.status == "unprovable" and result.retention is not None
    assert result.retention.share is None


def test_other_examples_and_what_is_missing(home: Path, tmp_path: Path) -> None:
    lines = [line.replace("Say", "Do say") for line in (home / "chats.jsonl").open()]
    (tmp_path / "more.jsonl").write_text("".join(lines))
    assert verify(home, "lora.gguf", data=tmp_path / "more.jsonl").retention.examples == 60
    with pytest.raises(UsageError, match="54 of 60 examples that are to judge the adapter were"):
        verify(home, "lora.gguf", data=home / "chats.jsonl")
    (home / "weak" / "held-out.jsonl").unlink()
    with pytest.raises(UsageError, match=r"no held-out\.jsonl"):
        verify(home, "weak.gguf", adapter=home / "weak")
    wrong: list[dict[str, Any]] = [
        {"adapter": None, "data": home / "chats.jsonl"},
        {"retention": 2.0},
    ]
    for options in wrong:
        with pytest.raises(UsageError):
            verify(home, "lora.gguf", **options)
    with pytest.raises(SourceError):
        verify(home, "lora.gguf", adapter=home / "absent")


def test_the_command(home: Path) -> None:
    words = ["verify", str(home / "source")]
    more = ["--adapter", str(home / "adapter"), "--threads", "1"]
    run = CliRunner().invoke(cli, [*words, str(home / "lora.gguf"), *more, "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["retention"]["share"] > 0.99
    assert CliRunner().invoke(cli, [*words, str(home / "weak.gguf"), *more]).exit_code == 1
    alone = CliRunner().invoke(cli, [*words, str(home / "lora.gguf"), "--data", "x.jsonl"])
    assert alone.exit_code == 2


def test_an_adapter_is_held_beside_the_quantized_base_of_a_device(home: Path) -> None:
    source, adapter = home / "source", home / "adapter"
    kanna.calibrate(source, home / "moments", adapter=adapter, tokens=2048, device="cpu")
    kanna.convert(
        source, home / "device.gguf", preset="Q8_0", statistics=home / "moments", threads=1
    )
    result = verify(home, "lora.gguf", beside=home / "device.gguf")
    assert result.ok and result.retention.share > 0.97
    assert result.retention.kl != verify(home, "lora.gguf").retention.kl  # another file was read
    assert verify(home, "weak.gguf", beside=home / "device.gguf").status == "failed"
    with pytest.raises(UsageError, match="no adapter"):
        verify(home, "tuned.gguf", beside=home / "device.gguf")
    with pytest.raises(KannaError, match="absent"):
        verify(home, "lora.gguf", beside=home / "absent.gguf")
    with pytest.raises(UsageError, match="no adapter"):
        kanna.verify(source, home / "device.gguf", beside=home / "device.gguf")
