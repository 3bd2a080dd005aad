"""Files of a push that are sent while their model is still read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from helpers import registries

import kanna
from kanna import gate_report
from kanna.errors import FormatError, GateError, SourceError
from kanna.packaging import head_start, prepared


@pytest.fixture(autouse=True)
def every_file_has_a_head_start(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_start, "WORTH", 1)


def copied(source: Path, path: Path) -> Path:
    path.write_bytes(source.read_bytes())
    return path


def test_bytes_go_while_the_model_is_read(
    registry: str, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lies, opened = copied(tiny_gguf, tmp_path / "m.gguf"), registries.Lies(), list[str]()
    read = prepared.open_artefact

    def late(*words: Any, **options: Any) -> Any:
        end = time.monotonic() + 30
        while time.monotonic() < end and not any(a.startswith("PATCH") for a in lies.asked):
            time.sleep(0.01)
        opened.extend(lies.asked)
        return read(*words, **options)

    monkeypatch.setattr(prepared, "open_artefact", late)
    with registries.between(registry, lies) as host:
        pushed = kanna.push(f"oci://{host}/team/early:v1", path, unproved=True)
    assert any(line.startswith("PATCH") for line in opened)
    assert pushed.variants[0].sent_bytes == path.stat().st_size
    assert len([line for line in lies.asked if line.startswith("PATCH")]) == 1


def test_nothing_is_asked_where_the_gate_does_not_hold(
    registry: str, tiny_gguf: Path, tmp_path: Path
) -> None:
    path, lies = copied(tiny_gguf, tmp_path / "m.gguf"), registries.Lies()
    with registries.between(registry, lies) as host:
        with pytest.raises(GateError, match="no gate report"):
            kanna.push(f"oci://{host}/team/gate:v1", path)
        gate_report.beside(path).write_text(
            '{"format": "kanna.gate/1", "status": "proved", "files": {"m.gguf": "%s"}}' % ("0" * 64)
        )
        with pytest.raises(GateError, match="about other files"):
            kanna.push(f"oci://{host}/team/gate:v1", path)
    assert lies.asked == []


def test_a_model_that_is_refused_gets_no_tag(registry: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(2_000_000))
    name = f"oci://{registry}/team/broken:v1"
    with pytest.raises(FormatError):
        kanna.push(name, path, unproved=True)
    with pytest.raises(SourceError, match="has no team/broken"):
        kanna.pull(name)


def test_a_file_in_two_variants_is_sent_and_counted_once(
    registry: str, tiny_gguf: Path, tmp_path: Path
) -> None:
    paths = [copied(tiny_gguf, tmp_path / f"{name}.gguf") for name in "ab"]
    pushed = kanna.push(f"oci://{registry}/team/same:v1", paths, unproved=True)
    assert [v.sent_bytes for v in pushed.variants] == [paths[0].stat().st_size, 0]


def test_an_error_of_the_registry_is_that_of_the_push(
    registry: str, tiny_gguf: Path, tmp_path: Path
) -> None:
    path = copied(tiny_gguf, tmp_path / "m.gguf")
    lies = registries.Lies(of="^POST", edit=lambda status, headers, body: (403, {}, b""))
    with registries.between(registry, lies) as host, pytest.raises(SourceError, match="refuses an"):
        kanna.push(f"oci://{host}/team/refused:v1", path, unproved=True)
