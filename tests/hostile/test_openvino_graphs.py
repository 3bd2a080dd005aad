"""Graphs of OpenVINO by a stranger: refused by verbs and engines before a runtime has them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.packing import run
from helpers.tiny_models import write_tokenizer

from kanna import formats
from kanna.errors import FormatError
from kanna.formats.openvino import MODEL, graphs
from kanna.runtimes.openvino_engine import OpenVINOEngine
from kanna.serving.engines.openvino_decoder import OpenVINODecoder

SOURCE = Path(__file__).parents[2] / "src" / "kanna"
SECRET = "a private key"
TOKENIZER = "openvino_tokenizer.xml"
DATA = '<data element_type="f32" shape="2, 4" offset="0" size="32" />'
LAYER = f'<layer id="0" name="a.weight" type="Const" version="opset1">{DATA}</layer>'
GOOD = (
    f'<?xml version="1.0"?>\n<net name="m" version="11"><layers>{LAYER}</layers><edges />'
    '<rt_info><runtime_options><KV_CACHE_PRECISION value="u8" /></runtime_options></rt_info></net>'
)
OWN = '<layer id="1" name="t" type="BPETokenizer" version="extension"><data side="left" /></layer>'
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a decoder's graph and a tokenizer's, next to a secret."""
    folder = tmp_path_factory.mktemp("graphs") / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer("qwen2", folder, 320)
    (folder / MODEL).write_text(GOOD)
    (folder / TOKENIZER).write_text(GOOD.replace(LAYER, LAYER + OWN))
    for name in (MODEL, TOKENIZER):
        (folder / name).with_suffix(".bin").write_bytes(bytes(32))
    (folder.parent / "key").write_text(SECRET)
    return folder


def _text(old: str, new: str) -> Callable[[Path], None]:
    def change(graph: Path) -> None:
        text = graph.read_text()
        assert old in text
        graph.write_text(text.replace(old, new, 1))

    return change


def _document(kind: str) -> Callable[[Path], None]:
    return _text("<net", f"<!DOCTYPE net {kind}>\n<net")


def _option(name: str, value: str) -> Callable[[Path], None]:
    return _text("<runtime_options>", f'<runtime_options><{name} value="{value}" />')


def _weights(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def changed(graph: Path) -> None:
        path = graph.with_suffix(".bin")
        path.unlink()
        change(path)

    return changed


def _link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("../key")


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


def _large(graph: Path) -> None:
    with graph.open("wb") as file:
        file.truncate((256 << 20) + 1)


BOMB = '[<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FAR = (1 << 62) - 16
DAMAGES: dict[str, Callable[[Path], None]] = {
    "entities within entities": _document(BOMB + "]"),
    "an entity of another file": _document('[<!ENTITY a SYSTEM "../key">]'),
    "a parameter of another file": _document('[<!ENTITY % a SYSTEM "../key"> %a;]'),
    "a document type elsewhere": _document('SYSTEM "http://127.0.0.1:9/a.dtd"'),
    "two bytes a letter": lambda graph: _write(graph, graph.read_text().encode("utf-16")),
    "another encoding": _text('"1.0"?>', '"1.0" encoding="utf-7"?>'),
    "parts within parts": _text("<edges />", "<edges>" * 100_000),
    "not closed": _text("</net>", ""),
    "something else": _text("<net", "<html"),
    "an unknown version": _text('name="m" version="11"', 'name="m" version="12"'),
    "no version": _text(' version="11"', ""),
    "an operation of a library": _text('version="opset1"', 'version="../../own.so"'),
    "an operation of no set": _text(' version="opset1"', ""),
    "a constant by another name": _text('"Const"', '"CONSTANT"'),
    "two sets of attributes": _text(DATA, DATA * 2),
    "two constants of one name": _text(LAYER, LAYER * 2),
    "an end behind the weights": _text('offset="0"', 'offset="1"'),
    "a place far behind them": _text('offset="0"', f'offset="{FAR}"'),
    "a number of 70 bits": _text('offset="0"', f'offset="{1 << 70}"'),
    "a negative place": _text('offset="0"', 'offset="-32"'),
    "no place": _text('offset="0"', ""),
    "another size": _text('size="32"', 'size="28"'),
    "another shape": _text("2, 4", "1099511627776, 4"),
    "bytes of an unknown type": _text('"f32" shape="2, 4" offset="0"', '"x" shape="" offset="1"'),
    "in the body of a layer": _text(
        LAYER,
        f'<layer id="1" name="i" type="If" version="opset8"><then_body><layers>'
        f"{LAYER.replace(chr(34) + '0' + chr(34), chr(34) + '8' + chr(34))}"
        "</layers></then_body></layer>",
    ),
    "settings of a device": _option("CONFIG_FILE", "own.xml"),
    "a cache elsewhere": _option("CACHE_DIR", "elsewhere"),
    "a library": _option("EXTENSIONS", "own.so"),
    "a value that is a path": _option("MODE", "../key"),
    "weights of another model": _text("<rt_info>", '<rt_info><__weights_path value="a" />'),
    "bytes of a cache": _text(
        "</layer>",
        '<rt_info><attribute name="WeightlessCacheAttribute" bin_offset="64" /></rt_info></layer>',
    ),
    "mean values": _text("<edges />", '<edges /><pre-process reference-layer-name="a" />'),
    "too large": _large,
    "no text": lambda graph: _write(graph, bytes(64)),
    "empty": lambda graph: _write(graph, b""),
    "a graph by a link": _link,
    "no weights": _weights(lambda path: None),
    "short weights": _weights(lambda path: path.write_bytes(bytes(31))),
    "weights by a link": _weights(_link),
    "weights that are a pipe": _weights(os.mkfifo),
    "weights that are a folder": _weights(Path.mkdir),
}


def _write(graph: Path, data: bytes) -> None:
    graph.write_bytes(data)


def _refusal(opened: Callable[[Path], object], folder: Path) -> str:
    try:
        opened(folder)
    except FormatError as error:
        return str(error)
    return ""


class Refusing:
    """Stands for OpenVINO: nothing may be read by it."""

    def read_model(self, *_: object) -> object:
        raise AssertionError("OpenVINO was given a graph")

    compile_model = add_extension = read_model


def _engine(folder: Path) -> object:
    return OpenVINOEngine(LIBRARY, folder, context=8, threads=1)


def _decoder(folder: Path) -> object:
    return OpenVINODecoder(folder, context=8, rows=1, threads=1)


LIBRARY = SimpleNamespace(Core=Refusing)


def test_no_runtime_reads_a_graph_that_was_damaged(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage in the decoder's graph and in the tokenizer's, which openvino-genai opens."""
    monkeypatch.setitem(sys.modules, "openvino", LIBRARY)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "openvino._offline_transformations", LIBRARY)  # type: ignore[arg-type]
    assert formats.check_inside(good) == good
    assert graphs.constants(good / MODEL)
    (tmp_path / "key").write_text(SECRET)
    copy = tmp_path / "copy"
    cases = [
        *((n, change, graph) for n, change in DAMAGES.items() for graph in (MODEL, TOKENIZER)),
        ("an operation of a library", _text('"opset1"', '"extension"'), MODEL),
        ("a link to nothing", _link_to_nothing, TOKENIZER),
    ]
    for name, change, graph in cases:
        shutil.copytree(good, copy)
        change(copy / graph)
        for opened in (
            formats.check_inside,
            _engine,
            _decoder,
        ):
            problem = _refusal(opened, copy)
            assert problem, (name, graph)
            assert SECRET not in problem and len(problem) < 1000, (name, graph)
        shutil.rmtree(copy)


VERBS = (
    ("inspect", "{}"),
    ("convert", "{}", "-o", "{out}"),
    ("package", "{}", "-o", "{out}", "--to", "docker"),
    ("push", "oci://127.0.0.1:9/a:v1", "{}", "--unproved"),
    ("evaluate", "{}", "--reference", "{}"),
    ("bench", "{}"),
    ("generate", "{}", "a"),
    ("chat", "{}"),
    ("compare", "{}", "-o", "{out}"),
    ("optimize", "{}", "-o", "{out}", "--bpw", "6"),
    ("fit", "{}"),
    ("verify", "{}", "{}"),
    ("serve", "{}", "--port", "0"),
)


def test_every_verb_says_what_is_wrong(good: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(good, copy)
    (copy / TOKENIZER).with_suffix(".bin").write_bytes(bytes(31))
    for words in VERBS:
        done = run(*(w.format(copy, out=out) for w in words), "--quiet")
        assert done.exit_code in (1, 2, 3), (words, done.output)
        if find_spec("openvino"):
            assert "31 bytes" in done.output, (words, done.output)
        assert "unexpectedly" not in done.output, done.output
        assert not out.exists()


def test_one_place_gives_graphs_to_openvino_and_none_a_library() -> None:
    words = ("read_model", "add_extension", "register_plugin", "openvino_genai", "LLMPipeline")
    used = {word: set[str]() for word in words}
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in words:
            if word in text:
                used[word].add(path.relative_to(SOURCE).as_posix())
    assert used == dict.fromkeys(words, set()) | {
        "read_model": {"formats/openvino/graphs.py"},
        "openvino_genai": {"_util/extras.py"},
    }
