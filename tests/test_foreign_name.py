"""The name `kanna` on the package index is another project's: nothing we write installs by it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from helpers import wheels

from kanna._util import distribution, extras

ROOT = Path(__file__).resolve().parents[1]
_TEXTS = {".py", ".md", ".toml", ".txt", ".js", ".html", ".ipynb", ".sh", ".yml", ".yaml", ""}
_PLACES = ("src", "docs", "tools", "examples", "benchmarks", ".ci", "README.md", "Makefile")
# `pip install kanna`, `"kanna[onnx]"`, `kanna==0.1`, `uvx kanna`, `pipx run kanna==1`; no path,
# no wheel and no name of our own (`./kanna`, `kanna-edge`, `kanna_edge-0.1.0.whl`).
BY_NAME = re.compile(
    r"""(?<![\w./-])kanna\[[a-z]"""
    r"""|(?<![\w./-])kanna\s*(==|~=|>=|@\s*http)\s*[\w{"']"""
    r"""|\b(pip3?|pipx|uv|conda|mamba|poetry|pdm|uvx)\b[^\n|#;&]*?"""
    r"""\b(install|download|inject|add|run|wheel|lock|uvx)\s+([^\n|#;&]*?\s)??["']?kanna(?![\w./-])"""
    r"""|\buvx\s+["']?kanna(?![\w./-])""",
)


def _by_name(text: str) -> list[str]:
    hits = [m[0] for m in BY_NAME.finditer(text)]
    return [hit for hit in hits if "--from dist/" not in hit and "--no-index" not in hit]


def test_the_pattern_sees_what_it_should() -> None:
    bad = [
        "pip install kanna", "pip install -U 'kanna[onnx]'", "uvx kanna --version", "kanna==0.1",
        "pipx install kanna", "uv pip install --system kanna", "RUN pip download kanna",
        "uv add kanna",
    ]  # fmt: skip
    good = [
        "pip install '.[onnx]'", "pip install dist/kanna_edge-0.1.0-….whl", "kanna --version",
        "uvx --from dist/kanna_edge-….whl kanna --version", "pip install '/home/me/kanna[onnx]'",
        "pip install kanna-edge", "/opt/kanna/bin/pip install x",
    ]  # fmt: skip
    assert [b for b in bad if not _by_name(b)] == []
    assert [g for g in good if _by_name(g)] == []


def test_nothing_in_the_source_or_the_docs_installs_by_a_foreign_name() -> None:
    tops = [ROOT / place for place in _PLACES]
    files = [f for top in tops for f in ([top] if top.is_file() else top.rglob("*"))]
    texts = [f for f in files if f.is_file() and f.suffix in _TEXTS and "__pycache__" not in str(f)]
    assert len(texts) > 300
    seen = {f: _by_name(f.read_text("utf-8", "replace")) for f in texts}
    assert {str(f.relative_to(ROOT)): hits for f, hits in seen.items() if hits} == {}


def test_no_generated_package_does(packaged: Path) -> None:
    texts = [p for p in packaged.rglob("*") if p.is_file() and p.suffix not in (".whl", ".gguf")]
    seen = {p.name: _by_name(p.read_text("utf-8", "replace")) for p in texts}
    assert {name: hits for name, hits in seen.items() if hits} == {}
    for name in ("Dockerfile", "README.md"):
        lines = [line for line in (packaged / name).read_text().splitlines() if "pip" in line]
        installing = [line for line in lines if " install " in line and "-r" in line]
        assert all("--no-index" in line or "--require-hashes" in line for line in installing)
    locked = (packaged / "requirements.txt").read_text()
    names = re.findall(r"^([a-z0-9_.-]+)==", locked, re.MULTILINE)
    assert "fastapi" in names and not {n for n in names if n.startswith("kanna")}
    entries = re.split(r"\n(?=[a-z0-9])", locked.strip())
    assert all("--hash=sha256:" in entry for entry in entries)


def _installed(folder: Path, url: str | None) -> metadata.Distribution:
    """A distribution as an installer leaves it, with the origin it notes."""
    wheel = wheels.make(folder)
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("METADATA")]
        archive.extract(name, folder / "site")
    info = (folder / "site" / name).parent
    if url is not None:
        (info / "direct_url.json").write_text(json.dumps({"url": url, "archive_info": {}}))
    more = 'Requires-Dist: onnx==1.2 ; extra == "onnx"\n' + (
        'Requires-Dist: other==3 ; (sys_platform == "nowhere") and extra == "onnx"\n'
    )
    (info / "METADATA").write_text((info / "METADATA").read_text() + more)
    [it] = metadata.distributions(name=distribution.NAME, path=[str(folder / "site")])
    return it


@pytest.mark.skipif(sys.platform == "win32", reason="quoting of another shell")
def test_hints_name_what_kanna_was_installed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = distribution.install_command.__wrapped__
    wheel = tmp_path / "with space" / "kanna_edge-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"")
    cases = {
        wheel.as_uri(): ["pip", "install", f"{wheel}[onnx]"],
        ROOT.as_uri(): ["pip", "install", f"{ROOT}[onnx]"],
        (tmp_path / "gone.whl").as_uri(): ["pip", "install", "onnx==1.2"],
        "https://host/a.whl": ["pip", "install", "kanna-edge[onnx] @ https://host/a.whl"],
    }
    for number, (url, wanted) in enumerate(
        {**cases, "": cases[(tmp_path / "gone.whl").as_uri()]}.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = _installed(folder, url or None)
        monkeypatch.setattr(distribution, "installed", lambda found=found: found)
        assert shlex.split(command("onnx")) == wanted
    monkeypatch.setattr(distribution, "installed", lambda: None)
    whole = distribution.source_tree
    monkeypatch.setattr(distribution, "source_tree", lambda: whole(ROOT))
    assert shlex.split(command("onnx")) == ["pip", "install", f"{ROOT}[onnx]"]
    monkeypatch.setattr(distribution, "source_tree", lambda: None)
    assert "pip install" not in command("onnx") and "[onnx]" in command("onnx")


def test_a_missing_module_is_not_installed_by_its_own_name() -> None:
    """The import name of a module may be another project's name on the index."""
    assert extras.command_for("sentencepiece.x") == "pip install sentencepiece"
    assert extras.command_for("OpenSSL") == extras.command("package")
    assert extras.command_for("nobody_knows_it") == extras.command("")


@pytest.mark.slow
def test_a_package_of_the_source_tree_installs_without_any_index(
    packaged: Path, tmp_path: Path
) -> None:
    """The last step of the service's installation, without the packages it builds on."""
    [wheel] = (packaged / "wheels").iterdir()
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "v"], check=True)
    command = [tmp_path / "v/bin/python", "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*command, wheel], check=True)
    assert (tmp_path / "v/bin/kanna").is_file()
