"""`kanna generate` and `kanna chat` with pictures; what is refused before llama.cpp sees it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import picture_files, tiny_vision

import kanna
from kanna import encodings
from kanna.cli.conversation import Conversation, run_command
from kanna.cli.main import cli
from kanna.errors import FormatError, KannaError, UnsupportedError, UsageError
from kanna.formats import gguf
from kanna.generation import close
from kanna.model import u32
from kanna.plan.types import TensorPlan

HOW: dict[str, Any] = {"max_tokens": 4, "threads": 1, "context": 128}


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.pair("gemma3", tmp_path_factory)


@pytest.fixture(scope="module")
def idefics3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.pair("idefics3", tmp_path_factory)


@pytest.fixture(autouse=True)
def _closed() -> Any:
    yield
    close()


def test_an_answer_depends_on_the_picture(gemma3: Path) -> None:
    model, tower = gemma3 / "text.gguf", gemma3 / "mmproj.gguf"
    cat = (gemma3 / "cat.png").read_bytes()
    black = picture_files.png(tiny_vision.picture("gemma3") * 0)
    how = HOW | {"mmproj": tower}
    seen = kanna.generate(model, "What is this?", image=gemma3 / "cat.png", **how)
    assert seen.text and seen.usage.tokens == 4
    alone = kanna.generate(model, "What is this?", **how)
    assert alone.text and seen.usage.prompt_tokens > alone.usage.prompt_tokens + 4
    again = kanna.generate(model, "What is this?", image=[cat], **how)
    assert again.text == seen.text
    assert kanna.generate(model, "What is this?", image=black, **how).text != seen.text
    placed = kanna.generate(model, "<__media__>What is this?", image=cat, **how)
    assert placed.text == seen.text
    grey = kanna.generate(
        model, "<__media__><__media__>?", image=[picture_files.jpeg(64, 8), cat], **how
    )
    assert grey.text and grey.usage.prompt_tokens > seen.usage.prompt_tokens
    chat = kanna.chat(model, "What is this?", image=cat, **how)
    assert chat.text and chat.usage.prompt_tokens > seen.usage.prompt_tokens


def test_a_command_line_takes_pictures(idefics3: Path) -> None:
    options = ["--mmproj", str(idefics3 / "mmproj.gguf"), "--image", str(idefics3 / "cat.png")]
    options += ["--max-tokens", "2", "--threads", "1", "--json"]
    answer = CliRunner().invoke(cli, ["generate", str(idefics3 / "text.gguf"), "What?", *options])
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["usage"]["prompt_tokens"] > 8
    answer = CliRunner().invoke(cli, ["chat", str(idefics3 / "text.gguf"), *options], input="Hi\n")
    assert answer.exit_code == 0
    assert [m["role"] for m in json.loads(answer.stdout)["messages"]] == ["user", "assistant"]


def test_a_picture_is_shown_by_the_message_it_was_given_for(idefics3: Path, tmp_path: Path) -> None:
    tower, cat = idefics3 / "mmproj.gguf", idefics3 / "cat.png"
    talk = Conversation(model=str(idefics3 / "text.gguf"), choices=HOW | {"mmproj": tower})
    talk.turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    alone = kanna.chat(talk.model, talk.asked("What?")[0], **talk.choices)
    assert alone.text
    with pytest.raises(UsageError, match="no picture was named"):
        run_command("/image", talk)
    with pytest.raises(UsageError, match="does not exist"):
        run_command(f"/image {tmp_path / 'none.png'}", talk)
    assert "shows" in str(run_command(f"/image {cat}", talk))
    messages, images = talk.asked("What?")
    assert images == [str(cat)] and [m["content"].count("<__media__>") for m in messages] == [
        0,
        0,
        1,
    ]
    seen = kanna.chat(talk.model, messages, image=images, **talk.choices)
    assert seen.text and seen.usage.prompt_tokens > alone.usage.prompt_tokens + 4
    talk.turns.append(talk.next("What?"))
    run_command(f"/save {tmp_path / 'talk.json'}", talk)
    run_command("/clear", talk)
    assert not talk.images and talk.asked("Hi")[1] == []
    run_command(f"/load {tmp_path / 'talk.json'}", talk)
    assert talk.asked("And?")[1] == [str(cat)]


def test_what_cannot_be_seen_is_refused(gemma3: Path, idefics3: Path, tmp_path: Path) -> None:
    model, tower, cat = (gemma3 / name for name in ("text.gguf", "mmproj.gguf", "cat.png"))
    cut = tmp_path / "cut.png"
    cut.write_bytes(cat.read_bytes()[:-20])
    # Whole by its checksums, and not what a decoder needs.
    hollow = picture_files.claiming(40, 40)
    cases: list[tuple[type[KannaError], str, Any, Any, Any]] = [
        (UsageError, "no vision tower", model, None, cat),
        (FormatError, "truncated", model, tower, cut),
        (FormatError, "cannot be decoded", model, tower, hollow),
        (FormatError, "no vision tower", model, model, cat),
        (FormatError, "writes no text", tower, tower, cat),
        (UnsupportedError, "reads no pictures", gemma3 / "model", tower, cat),
    ]
    for kind, words, text, mmproj, image in cases:
        with pytest.raises(kind, match=words):
            _ = kanna.generate(text, "What?", mmproj=mmproj, image=image, **HOW).text
    with pytest.raises(UsageError, match="2 places for 1 picture"):
        _ = kanna.generate(model, "<__media__> <__media__>", mmproj=tower, image=cat, **HOW).text
    with pytest.raises(UsageError, match="in a context of"):
        _ = kanna.generate(model, "x " * 300, mmproj=tower, image=cat, **HOW).text


def _rewritten(source: Path, out: Path, change: Any) -> Path:
    """A copy of a GGUF with other metadata."""
    file = gguf.read(source)
    entries = [
        TensorPlan(name=n, tensor=t, encoding=encodings.get(t.dtype), method="nearest")
        for n, t in file.tensors.items()
    ]
    gguf.write(out, metadata=change(dict(file.metadata)), tensors=entries)
    return out


def test_a_pair_that_would_end_llama_cpp_is_refused(idefics3: Path, tmp_path: Path) -> None:
    def without_marker(metadata: dict[str, Any]) -> dict[str, Any]:
        key = "tokenizer.ggml.tokens"
        tokens = [t.replace("<global-img>", "<other>") for t in metadata[key].value]
        return metadata | {key: replace(metadata[key], value=tokens)}

    def wider(metadata: dict[str, Any]) -> dict[str, Any]:
        return metadata | {"clip.vision.projection_dim": u32(4096)}

    model, tower, cat = (idefics3 / name for name in ("text.gguf", "mmproj.gguf", "cat.png"))
    plain = _rewritten(model, tmp_path / "plain.gguf", without_marker)
    with pytest.raises(FormatError, match="no token '<global-img>'"):
        kanna.generate(plain, "What?", mmproj=tower, image=cat, **HOW)
    wide = _rewritten(tower, tmp_path / "wide.gguf", wider)
    with pytest.raises(FormatError, match="rows of 4096 values"):
        kanna.generate(model, "What?", mmproj=wide, image=cat, **HOW)
    broken = tmp_path / "broken.gguf"
    shutil.copy(tower, broken)
    with broken.open("r+b") as file:
        file.truncate(tower.stat().st_size // 2)
    with pytest.raises(FormatError):
        kanna.generate(model, "What?", mmproj=broken, image=cat, **HOW)
