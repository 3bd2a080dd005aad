"""One way to name a model for every verb: paths, the hub, its addresses, Ollama, what is cached."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from helpers import ollama_store
from helpers.stub_hub import Hub, serving, use

import kanna
from kanna._util import plugins
from kanna.cli import options
from kanna.cli.main import COMMANDS, cli
from kanna.errors import KannaError, NotFoundError, SourceError, UsageError
from kanna.sources import locate, ollama, open_source, references

pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402

PARSED = {
    "org/name": ("hub", "org/name", None, None),
    "org/name@main": ("hub", "org/name", "main", None),
    "org/name@refs/pr/1": ("hub", "org/name", "refs/pr/1", None),
    "org/name:m-Q4_K_M.gguf": ("hub", "org/name", None, "m-Q4_K_M.gguf"),
    "org/name@v2:sub/m.gguf": ("hub", "org/name", "v2", "sub/m.gguf"),
    "org/name:Q4_K_M": ("hub", "org/name", None, "Q4_K_M"),
    "hf://org/name@v2/sub/m.gguf": ("hub", "org/name", "v2", "sub/m.gguf"),
    "https://huggingface.co/org/name": ("hub", "org/name", None, None),
    "https://huggingface.co/org/name/": ("hub", "org/name", None, None),
    "https://www.huggingface.co/org/name/tree/v2": ("hub", "org/name", "v2", None),
    "https://hf.co/org/name/tree/refs%2Fpr%2F1": ("hub", "org/name", "refs/pr/1", None),
    "https://hf.co/org/name/tree/refs/pr/1/sub": ("hub", "org/name", "refs/pr/1", "sub"),
    "https://huggingface.co/org/name/blob/main/a/m.gguf": ("hub", "org/name", "main", "a/m.gguf"),
    "https://huggingface.co/org/name/resolve/main/m.gguf?download=true": (
        "hub",
        "org/name",
        "main",
        "m.gguf",
    ),
    "https://huggingface.co/org/name?show_file_info=m.gguf": ("hub", "org/name", None, "m.gguf"),
    "huggingface.co/org/name": ("hub", "org/name", None, None),
    "https://huggingface.co/gpt2/tree/main": ("hub", "gpt2", "main", None),
    "builtin:smollm2-135m": ("builtin", "smollm2-135m", None, None),
    "ollama:qwen2.5:0.5b": ("ollama", "qwen2.5:0.5b", None, None),
    "https://ollama.com/library/qwen2.5:0.5b": ("ollama", "qwen2.5:0.5b", None, None),
    "org/model.gguf": ("path", "org/model.gguf", None, None),
    "model.gguf": ("path", "model.gguf", None, None),
    "/org/name": ("path", "/org/name", None, None),
    "./org/name": ("path", "org/name", None, None),
    "C:/models/m.gguf": ("path", "C:/models/m.gguf", None, None),
}


@pytest.mark.parametrize("given", PARSED)
def test_every_form_is_read(given: str) -> None:
    reference = references.parse(given)
    parts = (reference.kind, reference.name, reference.revision, reference.file)
    assert parts == PARSED[given] and reference.given in (given, f"https://{given}")


def test_what_is_on_the_disk_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert references.parse("org/name").kind == "path"
    assert references.parse("org/other").kind == "hub"


@pytest.mark.parametrize(
    ("given", "revision", "kind", "words"),
    [
        ("https://example.org/model.gguf", None, SourceError, "no address of the Hugging Face hub"),
        ("https://huggingface.co/datasets/org/name", None, SourceError, "no address of a model"),
        ("https://huggingface.co/", None, SourceError, "no address of a model"),
        ("hf://name", None, SourceError, "names no model"),
        ("https://[::1/org/name", None, SourceError, "is no address"),
        ("https://huggingface.co:port/org/name", None, SourceError, "is no address"),
        ("", None, SourceError, "is empty"),
        ("  ", None, SourceError, "is empty"),
        ("org/name@v1", "v2", UsageError, "one of the two"),
    ],
)
def test_what_names_no_model_is_refused(
    given: str, revision: str | None, kind: type[KannaError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        references.parse(given, revision)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("source") / "tiny"
    tiny_models.make("llama", made)
    return made


@pytest.fixture(scope="module")
def gguf(folder: Path) -> Path:
    return Path(
        kanna.convert(folder, folder.parent / "tiny-Q8_0.gguf", preset="Q8_0", threads=1).paths[0]
    )


@pytest.fixture
def store(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store as Ollama writes it, with the model `tiny:latest`."""
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    return ollama_store.make(tmp_path / "ollama", gguf, monkeypatch)


@pytest.fixture
def hub(folder: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a checkpoint in two revisions, and a repository of GGUF files."""
    with serving() as stub:
        stub.add("org/tiny", folder)
        stub.add("org/tiny", folder, revision="v2")
        data = gguf.read_bytes()
        stub.files["org/tiny-GGUF", "main"] = {
            "README.md": b"",
            "tiny-Q8_0.gguf": data,
            "tiny-Q4_K_M.gguf": data,
            "sub/tiny-F16.gguf": data,
            "mmproj-tiny.gguf": b"x",
        }
        stub.files["org/one-GGUF", "main"] = {"tiny-Q8_0.gguf": data}
        use(stub, tmp_path / "hf", monkeypatch)
        yield stub


FORMS: dict[str, Callable[[Hub, Path], str]] = {
    "id": lambda hub, _: "org/tiny",
    "revision": lambda hub, _: "org/tiny@v2",
    "page": lambda hub, _: f"{hub.url}/org/tiny",
    "tree": lambda hub, _: f"{hub.url}/org/tiny/tree/v2",
    "file": lambda hub, _: "org/tiny-GGUF:tiny-Q8_0.gguf",
    "file of a revision": lambda hub, _: "org/tiny-GGUF@main:sub/tiny-F16.gguf",
    "precision": lambda hub, _: "org/tiny-GGUF:q8_0",
    "folder of one file": lambda hub, _: "org/tiny-GGUF:sub",
    "only file": lambda hub, _: "org/one-GGUF",
    "blob": lambda hub, _: f"{hub.url}/org/tiny-GGUF/blob/main/tiny-Q8_0.gguf",
    "resolve": lambda hub, _: f"{hub.url}/org/tiny-GGUF/resolve/main/tiny-Q8_0.gguf?download=true",
    "ollama": lambda hub, _: "ollama:tiny",
    "ollama with a tag": lambda hub, _: "ollama:tiny:latest",
    "path": lambda hub, folder: str(folder),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_opened_and_located(form: str, hub: Hub, store: Path, folder: Path) -> None:
    given = FORMS[form](hub, folder)
    headers = kanna.inspect(given)
    assert headers.num_tensors == 30 and not headers.problems
    assert not [
        r for name in hub.files["org/tiny-GGUF", "main"] for r in hub.fetched(name) if not r
    ]
    place = locate(given)
    assert place.exists() and (place.is_dir() or place.suffix == ".gguf")
    asked = len(hub.asked)
    again = locate(given, offline=True)
    assert again.samefile(place) and len(hub.asked) == asked, "offline asks nothing"
    assert kanna.open_source(given, offline=True).tensors.keys() == {
        t["name"] for t in headers.tensors
    }


@pytest.mark.parametrize("given", ["org/tiny-GGUF:tiny-Q8_0.gguf", "org/one-GGUF"])
def test_headers_of_a_gguf_suffice(given: str, hub: Hub) -> None:
    result = kanna.fit(given, memory=10**9)
    assert result.rows
    ranges = hub.fetched("tiny-Q8_0.gguf")
    assert len(ranges) == 1 and ranges[0].startswith("bytes=0-"), "one range, not the file"


def test_the_folder_of_a_repository_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    place = locate("org/tiny")
    assert locate(tmp_path / "hf" / "models--org--tiny").samefile(place)


def test_a_hub_that_does_not_answer(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    locate("org/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert kanna.inspect("org/tiny").num_tensors == 30
    assert "the copy in the cache is used" in caplog.text
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE forbids to fetch it"):
        kanna.inspect("org/other")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("org/tiny-GGUF", ["has 3 GGUF files", "org/tiny-GGUF:tiny-Q4_K_M.gguf"]),
        ("org/tiny-GGUF:Q2_K", ["no file 'Q2_K'", "org/tiny-GGUF:tiny-Q8_0.gguf"]),
        ("org/tiny:model.safetensors", ["one file of a model", "org/tiny"]),
        ("org/absent", ["not found on the hub"]),
        ("org/tiny@v3", ["no revision 'v3'"]),
        ("ollama:absent", ["no model 'absent'", "ollama:tiny:latest", "ollama pull absent"]),
        ("ollama:adapted", ["a base model and an adapter"]),
        ("ollama:gone", ["is not there", "ollama pull gone"]),
        ("ollama:../x", ["no name of a model"]),
        ("builtin:absent", ["no embedded model", "builtin:smollm2-135m"]),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    given: str, words: list[str], hub: Hub, store: Path
) -> None:
    digest = next((store / "blobs").iterdir()).name.replace("-", ":")
    ollama_store.add(store, "adapted", "latest", [("model", digest), ("adapter", "sha256:2")])
    ollama_store.add(store, "gone", "latest", [("model", "sha256:3")])
    for open_it in (locate, kanna.open_source):
        with pytest.raises(KannaError) as error:
            open_it(given)
        for word in words:
            assert word in str(error.value), error.value


def test_ollamas_blob_gets_its_name(store: Path) -> None:
    assert locate("ollama:tiny").name == "tiny-latest.gguf"
    assert [m.name for m in ollama.models()] == ["tiny:latest"]


# Every verb, given a reference that names nothing: its error must be the resolver's own.
NOTHING = {
    "builtin:absent": "no embedded model 'absent'",
    "ollama:absent": "Ollama has no model 'absent'",
    "org/absent@main": "was not found on the hub",
    "https://huggingface.co/org/absent/blob/main/m.gguf": "was not found on the hub",
    "hf://org/absent/m.gguf": "was not found on the hub",
}
# What else a command needs before it looks at its model; {} is the reference.
WORDS: dict[str, list[list[str]]] = {
    "bench": [["{}"]],
    "calibrate": [["{}", "-o", "out"]],
    "chat": [["{}"]],
    "compare": [["{}", "-o", "out"]],
    "convert": [["{}", "-o", "out.gguf"]],
    "evaluate": [["{}", "--reference", "SRC"], ["GGUF", "--reference", "{}"]],
    "fit": [["{}"]],
    "generate": [["{}", "hello"]],
    "inspect": [["{}"]],
    "optimize": [["{}", "-o", "out", "--bpw", "4"]],
    "package": [["{}", "-o", "out"]],
    "serve": [["{}"], ["name={}"], ["GGUF", "--draft", "{}"]],
    "swap": [["name", "{}"]],
    "verify": [["{}", "GGUF"], ["SRC", "{}"]],
}
TABLE = [
    (verb, words, given)
    for verb, all_words in WORDS.items()
    for words in all_words
    for given in NOTHING
]


def takes_models(command: click.Command) -> bool:
    return any(p.type is options.MODEL for p in command.params)


def test_the_table_has_every_command_that_takes_a_model() -> None:
    commands = {
        name: plugins.load(COMMANDS, name, "COMMAND") for name in plugins.names(COMMANDS, "COMMAND")
    }
    assert {name for name, command in commands.items() if takes_models(command)} >= WORDS.keys()
    named = {"source", "artefact", "artefacts", "model", "models", "reference"}
    for name, command in commands.items():
        for parameter in command.params:
            # Models of `keys` are names of a gateway, those of `studio` folders to search.
            if parameter.name in named and name not in ("keys", "studio"):
                assert parameter.type is options.MODEL, f"{name}: {parameter.name}"
        if takes_models(command) and name not in ("swap", "rm", "pull"):
            assert "offline" in {p.name for p in command.params}, name


@pytest.mark.parametrize(
    ("verb", "words", "given"), TABLE, ids=lambda v: " ".join(v) if isinstance(v, list) else str(v)
)
def test_every_command_reads_every_form(
    verb: str,
    words: list[str],
    given: str,
    hub: Hub,
    folder: Path,
    gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [w.replace("SRC", str(folder)).replace("GGUF", str(gguf)).format(given) for w in words]
    run = CliRunner().invoke(cli, [verb, *filled])
    assert run.exit_code == 1 and NOTHING[given] in run.stderr, run.output
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.gguf").exists()


CALLS: dict[str, Callable[[Any, Path], object]] = {
    "bench": lambda model, out: kanna.bench([model]),
    "calibrate": lambda model, out: kanna.calibrate(model, out),
    "chat": lambda model, out: kanna.chat(model, [{"role": "user", "content": "x"}]),
    "compare": lambda model, out: kanna.compare(model, out=out),
    "convert": lambda model, out: kanna.convert(model, out),
    "evaluate": lambda model, out: kanna.evaluate(model, reference=model),
    "fit": lambda model, out: kanna.fit(model),
    "generate": lambda model, out: kanna.generate(model, "x"),
    "inspect": lambda model, out: kanna.inspect(model),
    "open_source": lambda model, out: kanna.open_source(model),
    "optimize": lambda model, out: kanna.optimize(model, out, bpw=4),
    "package": lambda model, out: kanna.package(model, out),
    "serve": lambda model, out: kanna.serve([model]),
    "verify": lambda model, out: kanna.verify(model, model),
}


@pytest.mark.parametrize("given", NOTHING)
@pytest.mark.parametrize("verb", CALLS)
def test_every_function_reads_every_form(verb: str, given: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=NOTHING[given]):
        CALLS[verb](given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["org/tiny-GGUF:Q8_0", "ollama:tiny"])
def test_artefacts_are_used_from_where_they_are(
    given: str, hub: Hub, store: Path, folder: Path, tmp_path: Path
) -> None:
    assert kanna.verify(folder, given, threads=1).status == "proved"
    written = kanna.convert(given, tmp_path / "again.gguf", preset="Q4_K_M", threads=1)
    assert written.file_bytes
    if importlib.util.find_spec("llama_cpp"):
        assert "".join(kanna.generate(given, "The", max_tokens=2, context=64, threads=1))
        (row,) = kanna.bench([given], prompt_tokens=8, gen_tokens=2, repeat=1, threads=1)
        assert row.file_bytes == locate(given).stat().st_size


@pytest.mark.parametrize("given", ["stories15m", "Stories15M", "smollm2-135"])
def test_the_name_of_a_builtin_model_alone_is_told(given: str) -> None:
    with pytest.raises(NotFoundError, match=r"the built-in model is builtin:(stories15m|smollm2)"):
        open_source(given)
