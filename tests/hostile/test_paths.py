"""Paths stay inside: what a folder names or links to elsewhere is refused by every verb."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.packing import run
from helpers.tiny_models import make

import kanna
from kanna.errors import FormatError, KannaError, OutputError
from kanna.formats import folder_files

SECRET = "a private key"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths") / "model"
    folder.mkdir()
    make("smollm", folder)
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_text(SECRET)
    shutil.copytree(model, tmp_path / "copy")
    return tmp_path / "copy"


def _link(name: str, to: str = "../outside/key") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return change


def _link_below(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").symlink_to(folder.parent / "outside" / "key")


def _weights_elsewhere(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "outside")
    (folder / "model.safetensors").symlink_to("../outside/model.safetensors")


def _index(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.move(folder / "model.safetensors", folder.parent / "outside")
        index = {"weight_map": {"model.embed_tokens.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def _pipe(folder: Path) -> None:
    (folder / "merges.txt").unlink(missing_ok=True)
    os.mkfifo(folder / "merges.txt")


def _genai(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = {"model": {"decoder": {"filename": name}}}
        (folder / "genai_config.json").write_text(json.dumps(config))

    return change


ESCAPES: dict[str, Callable[[Path], None]] = {
    "a tokenizer file by a link": _link("merges.txt"),
    "a chain of links": lambda f: (_link("key")(f), _link("vocab.json", "key")(f))[0],
    "a file nobody knows": _link("notes.txt"),
    "a link to nothing outside": _link("notes.txt", "../outside/gone"),
    "a template": _link("chat_template.jinja"),
    "a folder of templates": _link("additional_chat_templates", "../outside"),
    "a file one folder below": _link_below,
    "weights by a link": _weights_elsewhere,
    "config by a link": _link("config.json"),
    "an index with dots": _index("../outside/model.safetensors"),
    "an index with a root": _index("/etc/hostname"),
    "an index with a drive": _index("C:\\model.safetensors"),
    "a pipe": _pipe,
    "a graph above": _genai("../outside/key"),
    "a graph at a root": _genai("/etc/hostname"),
    "a graph on a drive": _genai("C:model.onnx"),
    "a graph behind backslashes": _genai("..\\outside\\key"),
}
VERBS = {
    "inspect": ("inspect", "{}"),
    "convert": ("convert", "{}", "-o", "{out}.gguf"),
    "convert to mlx": ("convert", "{}", "-o", "{out}", "--preset", "mlx:q4"),
    "package": ("package", "{}", "-o", "{out}", "--to", "ollama"),
    "evaluate": ("evaluate", "{}", "--reference", "{}"),
    "serve": ("serve", "{}", "--port", "0"),
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_leads_outside_is_refused_by_every_verb(escape: str, copy: Path) -> None:
    ESCAPES[escape](copy)
    out = copy.parent / "out"
    for words in VERBS.values():
        done = run(*(w.format(copy, out=out) for w in words), "--quiet")
        assert done.exit_code in (1, 2), (words, done.output)
        assert "unexpectedly" not in done.output, done.output
        assert not out.exists() and not out.with_suffix(".gguf").exists()
        assert SECRET not in done.output


def test_links_that_stay_inside_are_files(copy: Path) -> None:
    """Within the folder, the folder by a link, and snapshots of the hub's cache."""
    (copy / "config.json").rename(copy / "the-config")
    (copy / "config.json").symlink_to("the-config")
    (copy.parent / "by-link").symlink_to(copy)
    first = kanna.convert(copy.parent / "by-link", copy.parent / "a.gguf", encoding="f16")
    hub = copy.parent / "models--org--name"
    snapshot = hub / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for number, path in enumerate(p for p in copy.iterdir() if not p.is_symlink()):
        name = "config.json" if path.name == "the-config" else path.name
        shutil.copyfile(path, hub / "blobs" / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    again = kanna.convert(snapshot, copy.parent / "b.gguf", encoding="f16")
    assert first.tensors == again.tensors
    (snapshot / "notes.txt").symlink_to(copy.parent / "outside" / "key")
    with pytest.raises(FormatError, match="outside"):
        kanna.inspect(snapshot)


def test_blobs_that_are_a_link_themselves_are_none(copy: Path) -> None:
    hub = copy.parent / "models--org--name"
    (hub / "snapshots" / "0123abcd").mkdir(parents=True)
    (hub / "blobs").symlink_to(copy.parent / "outside")
    (hub / "snapshots" / "0123abcd" / "merges.txt").symlink_to("../../blobs/key")
    with pytest.raises(FormatError, match="outside"):
        folder_files.check(hub / "snapshots" / "0123abcd")


def test_a_file_may_be_named_by_a_link(model: Path, tmp_path: Path) -> None:
    made = kanna.convert(model, tmp_path / "a.gguf", encoding="f16").paths[0]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.gguf").symlink_to(made)
    assert kanna.inspect(tmp_path / "links" / "b.gguf").tensors


@pytest.mark.parametrize(
    "name", ["", ".." + "/a", "/a", "C:a", "C:\\a", "a\\b", "a\0b", "a/../../b", "a\nb", 7, None]
)
def test_names_that_lead_elsewhere_on_any_system(name: object, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        folder_files.named(tmp_path, name)


def test_devices_and_sockets_are_no_files(copy: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(copy)  # names of sockets are short
        try:
            listener.bind("vocab.json")
        finally:
            os.chdir(here)
        with pytest.raises(FormatError, match="socket"):
            kanna.inspect(copy)
    with pytest.raises(KannaError):
        kanna.inspect("/dev/zero")


@pytest.mark.parametrize("preset", ["mlx:q4", None])
def test_nothing_is_written_through_a_link(preset: str | None, copy: Path) -> None:
    victim, out = copy.parent / "outside" / "key", copy.parent / "out"
    out.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "kanna.json"):
        (out / name).symlink_to(victim)
        (out / f"{name}.partial").symlink_to(victim)
    options = {"preset": preset} if preset else {"format": "safetensors"}
    kanna.convert(copy, out, overwrite=True, **options)  # type: ignore[arg-type]
    assert victim.read_text() == SECRET
    assert not (out / "config.json").is_symlink()


def test_nothing_is_written_into_a_folder_behind_a_link(copy: Path) -> None:
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    out = copy.parent / "out"
    out.mkdir()
    (out / "additional_chat_templates").symlink_to("../outside")
    with pytest.raises(OutputError, match="link"):
        kanna.convert(copy, out, preset="mlx:q4", overwrite=True)
    assert [p.name for p in (copy.parent / "outside").iterdir()] == ["key"]
