"""Small graphs that ask for terabytes: an error before a runtime takes them, by every verb."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers import engine_artefacts, huge_graphs
from helpers.gateways import local
from helpers.packing import run

from kanna import runtimes
from kanna.errors import FormatError
from kanna.formats.onnx import files
from kanna.runtimes.isolation import process
from kanna.serving import process as serving

MAKE = {"onnx": huge_graphs.onnx_folder, "openvino": huge_graphs.openvino_folder}
TEXT = "asks for 4.40 TB of memory by "


@pytest.mark.parametrize("kind", huge_graphs.ONNX)
def test_an_onnx_graph_is_held_to_its_bytes(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = huge_graphs.onnx_folder(
        engine_artefacts.shared("onnx", tmp_path_factory), tmp_path / "huge", kind
    )
    with pytest.raises(FormatError, match="1.88 GB" if kind == "many" else TEXT):
        files.check_sizes(folder / "model.onnx")


def test_openvino_runs_no_graph_that_asks_for_terabytes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = engine_artefacts.shared("openvino", tmp_path_factory)
    for number, kind in enumerate(huge_graphs.OPENVINO):
        folder = huge_graphs.openvino_folder(source, tmp_path / str(number), kind)
        with pytest.raises(FormatError, match=TEXT):
            runtimes.of(folder).open(folder, context=64, threads=1)


VERBS = (
    ("verify", "{source}", "{}"),
    ("evaluate", "{}", "--reference", "{source}", "--text", "{text}", "--windows", "1"),
    ("bench", "{}", "--repeat", "1"),
    ("generate", "{}", "a"),
)


@pytest.mark.parametrize("engine", MAKE)
def test_every_verb_says_what_a_graph_asks_for(
    engine: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = engine_artefacts.shared(engine, tmp_path_factory)
    folder = MAKE[engine](good, tmp_path / "huge", "Tile")
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven eight nine ten. " * 100)
    places = {"source": good.parent / "source", "text": text}
    for words in VERBS:
        done = run(*(w.format(folder, **places) for w in words), "--threads", "1", "--quiet")
        assert done.exit_code == 1, (words, done.output)
        assert TEXT in " ".join(done.output.split()), (words, done.output)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limit is Linux's")
def test_a_runtime_s_process_may_take_what_the_machine_has() -> None:
    """What no look at a graph can know is refused by the kernel, or ends that process first."""
    import resource

    from kanna._util.memory_limits import SLACK, has_gpu
    from kanna.hardware import memory

    child = process.start("onnx")
    child.ask({"do": "close"}, "closing")
    pid = child._process.pid  # pyright: ignore[reportPrivateUsage]
    try:
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 500
        if not has_gpu():
            limit, _ = resource.prlimit(pid, resource.RLIMIT_DATA)
            here = memory()
            assert limit == here.total + here.swap + SLACK
    finally:
        process.give_back(child)


# The slow one takes the same path.
@pytest.mark.parametrize("engine", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_gateway_says_what_a_graph_asks_for(
    engine: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To its operator with the folder, to its clients without."""
    good = engine_artefacts.shared(engine, tmp_path_factory)
    folder = MAKE[engine](good, tmp_path / "huge", "Tile")
    monkeypatch.setattr(serving, "MAX_FAILED_STARTS", 1)
    with local(folder, tmp_path, replay=False) as gateway:
        status, answer = gateway.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert (status, answer["error"]["code"]) == (503, "engine_failed")
    assert TEXT in answer["error"]["message"] and str(tmp_path) not in answer["error"]["message"]
    assert TEXT in caplog.text and str(folder) in caplog.text
