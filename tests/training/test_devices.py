"""`kanna adapt` on a CUDA device: in bfloat16, to about the losses of the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import accelerators, tiny_adapters

import kanna

pytest.importorskip("trl")

WORDS = ("fox", "dog", "once", "time", "quick", "brown")


@pytest.mark.gpu
def test_it_comes_to_the_losses_of_the_cpu(tmp_path: Path) -> None:
    accelerators.require("cuda")
    tiny_adapters.base("llama", tmp_path / "source")
    lines: list[str] = []
    for index in range(40):
        word = WORDS[index % len(WORDS)]
        question = {"role": "user", "content": f"Say {word} {index}"}
        answer = {"role": "assistant", "content": f"{word} {word} {word}"}
        lines.append(json.dumps({"messages": [question, answer]}))
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    cpu, cuda = (
        kanna.adapt(
            tmp_path / "source",
            tmp_path / "chats.jsonl",
            tmp_path / device,
            rank=4,
            learning_rate=5e-3,
            steps=24,
            samples=1,
            device=device,
        )
        for device in ("cpu", "cuda")
    )
    assert cuda.settings["device"] == "cuda"
    assert cuda.base_loss == pytest.approx(cpu.base_loss, rel=0.02)
    assert cuda.tuned_loss < 0.8 * cuda.base_loss
    assert cuda.tuned_loss == pytest.approx(cpu.tuned_loss, rel=0.1)
    assert cuda.costs["peak_bytes"] > 0
