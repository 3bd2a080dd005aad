"""Packages for a browser: a real one writes what the model writes here, and asks nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import engine_artefacts
from helpers.browser import Browser

import kanna
from kanna.errors import UnsupportedError
from kanna.packaging import check, package
from kanna.packaging.targets import web

PROMPT, TOKENS = "Once upon a time", 24


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module", params=["gguf", "onnx"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_artefacts.shared(request.param, tmp_path_factory)


def _address(folder: Path) -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [sys.executable, str(folder / "serve.py"), "0"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


def test_a_browser_writes_what_the_model_writes_here(
    model: Path, browser: Browser, tmp_path: Path
) -> None:
    folder = tmp_path / "page"
    made = package(model, folder, to="web")
    assert made.resources["parallel"] == 1 and made.resources["process_bytes"] == 0
    assert check(folder).files == len(made.files) - 1
    server, address = _address(folder)
    browser.requested.clear()
    try:
        browser.open(address)
        browser.until("!document.getElementById('prompt').disabled", timeout=90)
        browser.js(f"document.getElementById('tokens').value = {TOKENS}")
        browser.js("document.getElementById('prompt').focus()")
        browser.type(PROMPT)
        browser.press("Enter")
        browser.until("document.querySelector('.assistant')?.dataset.done", timeout=90)
        written = browser.js("document.querySelector('.assistant').textContent")
        isolated = browser.js("self.crossOriginIsolated")
    finally:
        server.kill()
        server.wait()
    expected = kanna.generate(model, PROMPT, chat=True, max_tokens=TOKENS, temperature=0).text
    assert written == expected
    assert isolated  # threads
    assert not browser.complaints
    elsewhere = [u for u in browser.requested if not u.startswith((address, "blob:", "data:"))]
    assert not elsewhere


def test_the_bill_of_materials_names_what_the_browser_runs(model: Path, tmp_path: Path) -> None:
    package(model, tmp_path / "page", to="web")
    bom = json.loads((tmp_path / "page" / "bom.cdx.json").read_text())
    libraries = {c["purl"]: c for c in bom["components"] if c["type"] == "library"}
    assert libraries and all(purl.startswith("pkg:npm/") for purl in libraries)
    assert not [c for c in bom["components"] if c["name"] == "kanna"]  # nothing of it goes along
    assert not (tmp_path / "page" / "watch").exists()


def test_what_no_browser_takes_is_refused_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MOST_BYTES", 10_000)
    with pytest.raises(UnsupportedError, match="no browser takes so much"):
        package(model, tmp_path / "page", to="web")
    assert not (tmp_path / "page").exists()
