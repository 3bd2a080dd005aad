"""Calibration text: files good and bad, conversations, the built-in set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.calibrating import TOKENS, WINDOW

import kanna
from kanna import families
from kanna.calibration import texts
from kanna.calibration.windows import cut
from kanna.cli.main import cli
from kanna.errors import OutputError, UsageError
from kanna.model import string

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("small")


BAD_TEXTS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("t.txt", b"", "is empty"),
    "blank": ("t.txt", b" \n\n", "is empty"),
    "tiny": ("t.txt", b"Hello there.", "tokens"),
    "latin-1": ("t.txt", "Müller ".encode("latin-1") * 500, "not UTF-8"),
    "utf-16": ("t.txt", ("Some words. " * 500).encode("utf-16"), "not UTF-8"),
    "utf-16 without its mark": ("t.txt", ("Some words. " * 500).encode("utf-16-le"), "zero bytes"),
    "no lines": ("t.jsonl", b"\n\n", "is empty"),
    "broken line": ("t.jsonl", b'{"text": "good"}\n{"text": \n', "line 2"),
    "another key": ("t.jsonl", b'{"content": "x"}\n', "line 1"),
    "a list": ("t.jsonl", b"[1, 2]\n", "line 1"),
    "no role": ("t.jsonl", b'{"messages": [{"content": "Hello"}]}\n', "line 1"),
    "no string": ("t.jsonl", b'{"messages": [{"role": "user", "content": 1}]}\n', "line 1"),
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_text_that_cannot_be_used(kind: str, llama: Path, tmp_path: Path) -> None:
    name, data, said = BAD_TEXTS[kind]
    (tmp_path / name).write_bytes(data)
    words = [
        "calibrate",
        str(llama),
        "-o",
        str(tmp_path / "stats"),
        "--calibration",
        str(tmp_path / name),
        "--quiet",
    ]
    run = CliRunner().invoke(cli, words)
    assert run.exit_code == 2, run.output
    assert said in run.stderr and "Expected" in run.stderr
    assert not (tmp_path / "stats").exists()


def test_the_mark_of_some_editors_is_no_text(llama: Path, tmp_path: Path) -> None:
    model = families.load_model(kanna.open_source(llama))
    line = json.dumps({"text": "Some words."})
    for name, data in (("t.txt", "Some words."), ("t.jsonl", line)):
        (tmp_path / name).write_text("\ufeff" + data, encoding="utf-8")
        assert texts.documents([tmp_path / name], model)[0][0].text == "Some words."


def test_places_that_cannot_be_used(llama: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.txt"):
        kanna.calibrate(llama, tmp_path / "stats", calibration=[tmp_path / "absent.txt"])
    with pytest.raises(UsageError, match="10 tokens"):
        kanna.calibrate(llama, tmp_path / "stats", calibration=[text], tokens=10)
    with pytest.raises(OutputError, match="is a file"):
        kanna.calibrate(llama, text, calibration=[text], tokens=TOKENS)


def test_conversations_are_rendered_and_short_lines_joined(llama: Path, tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"What is {i}\u2028?"}]} for i in range(200)]
    path = tmp_path / "chat.jsonl"
    path.write_text(
        "\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8"
    )
    model = families.load_model(kanna.open_source(llama))
    (document,), _ = texts.documents([path], model)
    assert document.text.startswith("<|im_start|>user\nWhat is 0\u2028?<|im_end|>")
    assert (
        kanna.calibrate(llama, tmp_path / "stats", calibration=[path], tokens=TOKENS).tokens
        == TOKENS
    )


SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (None, "System: Be brief.\nUser: Hello"),
        (
            "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}",
            "user=Be brief.\n\nHello;",
        ),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "{% for m in messages %}{{ m.content }};{% endfor %}",
            "Be brief.\n\nHello;",
        ),
        (
            "{% for m in messages %}{{ m.role == 'system' }} {{ m.content }};{% endfor %}",
            "True Be brief.;False Hello;",
        ),
    ],
)
def test_system_turns_of_every_kind_of_template(
    template: str | None, wanted: str, llama: Path
) -> None:
    model = families.load_model(kanna.open_source(llama))
    model.metadata.pop("tokenizer.chat_template", None)
    if template is not None:
        model.metadata["tokenizer.chat_template"] = string(template)
    assert texts.conversation(SYSTEM, model) == wanted


def test_a_template_that_refuses_everything(llama: Path, tmp_path: Path) -> None:
    model = families.load_model(kanna.open_source(llama))
    model.metadata["tokenizer.chat_template"] = string("{{ raise_exception('never') }}")
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": SYSTEM}))
    with pytest.raises(UsageError, match="line 1.*never"):
        texts.documents([path], model)
    found, _ = texts.documents(None, model)  # the built-in set is read plainly then
    assert any("User: " in d.text for d in found if d.domain == "chat")


def test_the_built_in_set(llama: Path) -> None:
    model = families.load_model(kanna.open_source(llama))
    found, digest = texts.documents(None, model)
    assert {d.domain for d in found} == {"chat", "code", "languages", "prose"}
    assert texts.documents(None, model)[1] == digest
    names = {p.name for p in texts.FOLDER.iterdir() if p.suffix in (".txt", ".jsonl")}
    assert names == {d.name for d in found}
    for document in found:
        assert "\ufffd" not in document.text and len(document.text) > 2000, document.name
    for line in (texts.FOLDER / "chat.jsonl").read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        assert {m["role"] for m in messages} <= {"system", "user", "assistant"} and len(
            messages
        ) >= 2
    windows = cut(found, model, tokens=40 * WINDOW)
    counts = [windows.domains.count(d) for d in ("chat", "code", "languages", "prose")]
    assert min(counts) >= 8, "a mixture, not one kind after another"
    assert windows.held.sum() >= 4 and windows.held_text
