"""A runtime of a third party, found by its entry point: listed, opened, evaluated, benchmarked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.plugging import plugged
from helpers.tiny_models import make

from kanna import bench, components, doctor, evaluate, generate, runtimes
from kanna.errors import FormatError
from kanna.generation import close

RUNTIME = '''
"""A runtime of a test: logits from a table of the last token, no model at all."""

import json
from pathlib import Path

import numpy as np

from kanna.runtimes.base import Availability
from kanna.runtimes.folder_text import FolderText
from kanna.runtimes.stepped import SteppedEngine


class DummyEngine(SteppedEngine):
    """Predicts the token after the last one."""

    def forward(self, ids, keep):
        rows = np.zeros((keep, self.vocab_size), np.float32)
        for row, token in zip(rows, ids[len(ids) - keep :]):
            row[(token + 1) % self.vocab_size] = 1
        return rows

    def rewind(self, length):
        return 0

    def memory(self):
        return {"weights": 1, "kv": 0, "compute": 0, "output": 4 * self.vocab_size}

    def free(self):
        pass


class DummyRuntime:
    """For folders with a file dummy.json."""

    name = "dummy"
    title = "Dummy"
    summary = "A runtime of another distribution"
    extra = ""
    has_thread_setting = True
    slow_on_cpu = False
    is_reference = False

    def opens(self, path):
        return (path / "dummy.json").is_file()

    def trained_context(self, path):
        return json.loads((path / "dummy.json").read_text())["context"]

    def available(self):
        return Availability(ok=True, version="dummy 1", backends=["CPU"])

    def load(self):
        return None

    def open(self, path, *, context=4096, threads=None, gpu_layers=None):
        path = Path(path)
        about = json.loads((path / "dummy.json").read_text())
        return DummyEngine(
            path,
            FolderText(path, [about]),
            vocab_size=about["vocab_size"],
            trained_context=about["context"],
            context=context,
            threads=threads or 1,
        )


RUNTIME = DummyRuntime()
'''


@pytest.fixture
def dummy(tmp_path: Path) -> Iterator[None]:
    """A package with a runtime, installed for this test and the children that measure."""
    with plugged(tmp_path / "site", "kanna.runtimes", "dummy", RUNTIME, "RUNTIME"):
        yield
        close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Hugging Face model."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("dummy") / "llama"
    make("llama", folder)
    return folder


@pytest.fixture
def artefact(source: Path, tmp_path: Path) -> Path:
    """An artefact of the dummy runtime, with the source's tokenizer."""
    folder = tmp_path / "artefact"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    size = json.loads((source / "config.json").read_text())["vocab_size"]
    (folder / "dummy.json").write_text(json.dumps({"vocab_size": size, "context": 256}))
    return folder


def test_a_dummy_runtime_is_listed(dummy: None) -> None:
    assert "dummy" in runtimes.names()
    report = doctor()
    assert report.runtimes["dummy"]["version"] == "dummy 1"
    assert "Dummy" in [section["title"] for section in report.sections]
    [kind] = components("runtimes", "dummy").kinds
    [component] = kind.components
    assert component.summary == "A runtime of another distribution"
    assert {option.name for option in component.options} == {"context", "threads", "gpu_layers"}


def test_a_dummy_runtime_opens_and_generates(dummy: None, artefact: Path) -> None:
    assert runtimes.of(artefact).name == "dummy"
    with runtimes.of(artefact).open(artefact, threads=1) as engine:
        ids = engine.tokenize("Once upon a time")
        assert engine.logits(ids).argmax(1).tolist() == [i + 1 for i in ids]
        text = "".join(engine.generate(ids, max_tokens=3, ignore_eog=True))
        assert text == engine.detokenize([ids[-1] + 1, ids[-1] + 2, ids[-1] + 3])
    assert isinstance("".join(generate(artefact, "Once", max_tokens=2)), str)


def test_a_dummy_artefact_is_evaluated(
    dummy: None, source: Path, artefact: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The plane takes a shaving so thin that light passes through it. " * 40)
    result = evaluate(artefact, reference=source, text=text, context=64, windows=4, threads=1)
    assert result.windows == 4
    assert result.kl_mean > 0
    assert 0 <= result.top1 <= 1


def test_a_dummy_artefact_is_benchmarked(dummy: None, artefact: Path) -> None:
    [row] = bench([artefact], prompt_tokens=300, gen_tokens=4, repeat=1, threads=1)
    assert row.runtime == "dummy"
    assert row.prompt_tokens == 256 - 4 - 16
    assert row.prompt_tps > 0
    assert row.memory["weights"] == 1


def test_without_its_package_a_dummy_artefact_is_refused(artefact: Path) -> None:
    with pytest.raises(FormatError, match="runtime"):
        runtimes.of(artefact)
