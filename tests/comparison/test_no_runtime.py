"""A comparison where nothing can run what it makes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kanna.cli.main import cli


def test_without_a_runtime_nothing_is_measured_and_the_exit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from helpers import tiny_models

    tiny_models.make("llama", tmp_path / "tiny")
    (tmp_path / "text.txt").write_text(tiny_models.TEXT * 60, encoding="utf-8")
    for module in ("llama_cpp", "xllamacpp", "llama_cpp_py_sync"):
        monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "out"
    words = ["compare", str(tmp_path / "tiny"), "--presets", "Q8_0", "-o", str(out), "--json"]
    words += ["--text", str(tmp_path / "text.txt"), "--windows", "2", "--threads", "1", "--quiet"]
    run = CliRunner().invoke(cli, words, env={"KANNA_CACHE": str(tmp_path / "cache")})
    assert run.exit_code == 3, run.stderr
    assert "Nothing was checked or measured" in run.stderr and "kanna doctor" in run.stderr
    rows = json.loads(run.stdout)["rows"]
    assert [r["name"] for r in rows] == ["F16", "Q8_0"]
    assert all(Path(r["path"]).is_file() and r["gate"] == "unprovable" for r in rows)
    assert "not checkable" in (out / "report.html").read_text()
