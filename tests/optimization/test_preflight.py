"""A dry run refuses what the run refuses, with the same words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import needs

import kanna
from kanna._util.progress import Silent
from kanna.errors import KannaError
from kanna.optimization.context import Context
from kanna.optimization.preflight import check_request
from kanna.optimization.request import OptimizeRequest

pytest.importorskip("torch")
needs.llama_cpp()

from helpers import tiny_models  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preflight") / "tiny"
    tiny_models.make("llama", folder)
    return folder


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"guard": "lm-eval:nope.yaml"}, "nope.yaml"),
        ({"guard": "choice:nope.jsonl:0.1"}, "nope.jsonl"),
        ({"calibration": "nope.txt"}, "nope.txt"),
        ({"text": "nope.txt"}, "nope.txt"),
        ({"keep": "nope"}, "'nope' names no matrix"),
        ({"exclude": "nope"}, "no encoding named 'nope'"),
        ({"rules": "nope=q4_0"}, "'nope' names no matrix"),
        ({"adapter": "nope"}, "nope does not exist"),
        ({"min_speed": 5.0, "speeds": "nope.json"}, "nope.json"),
        ({"provider": "cpu"}, "no use for gguf"),
        ({"on": "nope"}, "nope"),
        ({"bpw": 0.1}, "below the smallest possible file"),
        ({"bpw": None}, "no budget"),
    ],
    ids=str,
)
def test_a_dry_run_checks_what_the_run_does(
    source: Path, tmp_path: Path, options: dict[str, object], problem: str
) -> None:
    asked: dict[str, object] = {"bpw": 8.0, **options}
    said: list[str] = []
    for dry_run in (True, False):
        with pytest.raises(KannaError) as error:
            kanna.optimize(source, tmp_path / "out", dry_run=dry_run, **asked)  # pyright: ignore
        said.append(str(error.value))
    assert said[0] == said[1] and problem in said[0]
    assert not [*tmp_path.rglob("*.gguf"), *tmp_path.rglob("*.json")]


def test_a_cache_beyond_what_the_model_was_trained_on_is_noted_first(
    source: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    class Remarks(Silent):
        def remark(self, text: str) -> None:
            said.append(text)

    asked = OptimizeRequest(
        source=source, out=tmp_path / "out", format="gguf", memory=1 << 30, context=1 << 20
    )
    for request, count in ((asked, 1), (replace(asked, context=64), 0)):
        said.clear()
        context = Context(progress=Remarks())
        check_request(request, context)
        noted = [note for note in context.notes if "(--context) is longer than" in note]
        assert len(noted) == count and noted == said
